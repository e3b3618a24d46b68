"""Virtual rows: pieces of long examples, taken by number as stored rows are."""
