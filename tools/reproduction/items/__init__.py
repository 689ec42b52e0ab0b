"""One module an item of the paper: which trainings it needs, and what it makes of them."""
