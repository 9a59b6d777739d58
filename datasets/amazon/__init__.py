"""Amazon product data: original 2014 file formats, k-core filter, and the 2023 collection."""
