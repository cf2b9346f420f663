"""Cards for notebooks: one file per class, registered under its name. A card takes some kilobytes."""
