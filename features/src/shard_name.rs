//! The names of the files in a folder of shards.

use datasets::Split;

/// The file name of the manifest, which is written once all shards are complete.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The file name of the table of samples that have no usable modality, with the causes.
pub const FAILURES_FILE: &str = "failures.parquet";

/// The name of one shard: `train-00002-of-00014.parquet`. Ordered by split, then by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShardName {
    /// The split that the shard is a part of.
    pub split: Split,
    /// The shard's number within the split, from 0.
    pub number: usize,
    /// The number of shards of the split.
    pub of: usize,
}

impl ShardName {
    /// Returns the file name.
    pub fn file_name(self) -> String {
        format!(
            "{}-{:05}-of-{:05}.parquet",
            self.split, self.number, self.of
        )
    }

    /// Parses a file name. `None` if [`ShardName::file_name`] does not return it for any shard.
    pub fn parse(file_name: &str) -> Option<ShardName> {
        let (split, rest) = file_name.strip_suffix(".parquet")?.split_once('-')?;
        let (number, of) = rest.split_once("-of-")?;
        let name = ShardName {
            split: split.parse().ok()?,
            number: number.parse().ok()?,
            of: of.parse().ok()?,
        };
        (name.file_name() == file_name).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_shards_are_parsed() {
        let name = ShardName {
            split: Split::Val,
            number: 3,
            of: 14,
        };
        assert_eq!(name.file_name(), "val-00003-of-00014.parquet");
        assert_eq!(ShardName::parse(&name.file_name()), Some(name));
        for other in [
            "val-3-of-14.parquet",
            "failures.parquet",
            "dev-00000-of-00001.parquet",
            "val-00000-of-00001.parquet.tmp",
        ] {
            assert_eq!(ShardName::parse(other), None, "{other}");
        }
    }
}
