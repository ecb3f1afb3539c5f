"""The paper's claims, tried here: which runs, their results, and the report that is made of these alone."""
