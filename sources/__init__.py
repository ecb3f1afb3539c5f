"""One file per data set: rows of its own form become records."""
