"""Records to tables of values: rows, cells, evidence."""
