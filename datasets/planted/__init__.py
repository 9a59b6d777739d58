"""The planted catalogue: tree, texts, pictures, behaviour and its oracle, all from one seed."""
