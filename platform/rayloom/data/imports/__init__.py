"""One's own data made a store: pictures in folders, arrays, tables."""
