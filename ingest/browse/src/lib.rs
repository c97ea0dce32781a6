//! A page that shows shards.
