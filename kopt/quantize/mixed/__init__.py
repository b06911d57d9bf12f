"""Files of several types: which layers leave the integers, and how many bits the others get."""
