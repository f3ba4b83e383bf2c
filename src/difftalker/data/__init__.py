"""From footage to tensors: preparation on disk, and the dataset that training reads."""
