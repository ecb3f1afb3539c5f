"""One file per stage of the paper's section 3.3."""
