//! Dataset card and Croissant metadata beside shards.
