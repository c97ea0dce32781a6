//! The scores and hyperparameters that the paper reports (tables 1 to 6 of Reza et al. 2025), from
//! the CSV files in `paper/`.

use anyhow::{Result, bail};

/// A table of the paper.
pub struct PaperTable {
    columns: Vec<&'static str>,
    rows: Vec<Vec<&'static str>>,
}

/// A score that the paper reports.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct PaperScore {
    /// The method, in lower case with underscores, such as `ogm_ge`.
    pub method: String,
    /// The score in per cent.
    pub value: f64,
    /// The standard deviation, if the paper gives one.
    pub deviation: Option<f64>,
}

/// The methods of tables 1, 2 and 4 whose scores the paper takes from publications that train other
/// encoders, by their names on the pages.
const OTHER_ENCODERS: [&str; 10] = [
    "G-Blend",
    "FiLM",
    "BiGated",
    "OGM-GE",
    "QMF",
    "PMR",
    "MLA",
    "MAP input",
    "MAP attn",
    "MAP",
];

/// Returns whether the paper's scores of a method are those of other encoders than U2A's.
pub(crate) fn has_other_encoders(method: &str) -> bool {
    OTHER_ENCODERS.contains(&method)
}

/// Spells a method in lower case with underscores: `OGM-GE` becomes `ogm_ge`.
pub(crate) fn method_key(method: &str) -> String {
    method
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect()
}

impl PaperTable {
    /// Opens the table with this number.
    ///
    /// # Errors
    /// The number is not one of 1 to 6.
    pub fn open(number: u8) -> Result<PaperTable> {
        let text = match number {
            1 => include_str!("../paper/table1_complete_image_text.csv"),
            2 => include_str!("../paper/table2_complete_audio_video.csv"),
            3 => include_str!("../paper/table3_same_ratio.csv"),
            4 => include_str!("../paper/table4_one_modality_missing_at_test.csv"),
            5 => include_str!("../paper/table5_hyperparameters.csv"),
            6 => include_str!("../paper/table6_different_ratio.csv"),
            _ => bail!("the paper has tables 1 to 6, not {number}"),
        };
        let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let columns = lines.next().unwrap_or_default();
        Ok(PaperTable {
            columns,
            rows: lines.collect(),
        })
    }

    fn cell(&self, row: &[&'static str], column: &str) -> Option<&'static str> {
        let at = self.columns.iter().position(|c| *c == column)?;
        row.get(at).copied()
    }

    /// Returns the rows, each as pairs of column name and cell.
    pub fn rows(&self) -> impl Iterator<Item = Vec<(&'static str, &'static str)>> + '_ {
        self.rows.iter().map(|row| {
            self.columns
                .iter()
                .copied()
                .zip(row.iter().copied())
                .collect()
        })
    }

    /// Returns the scores in a column of a table that has one row per method.
    pub fn scores_in_column(&self, column: &str) -> Vec<PaperScore> {
        let score = |row: &Vec<&'static str>| {
            Some(PaperScore {
                method: method_key(row.first()?),
                value: self.cell(row, column)?.parse().ok()?,
                deviation: None,
            })
        };
        self.rows.iter().filter_map(score).collect()
    }

    /// Returns the scores in a row of a table that has one column per method. The row is that whose
    /// cells have the wanted values, as pairs of column name and cell; without one there is none.
    pub fn scores_in_row(&self, wanted: &[(&str, &str)]) -> Vec<PaperScore> {
        let matches = |row: &&Vec<&'static str>| {
            let cell_matches =
                |(column, value): &(&str, &str)| self.cell(row, column) == Some(*value);
            wanted.iter().all(cell_matches)
        };
        let Some(row) = self.rows.iter().find(matches) else {
            return Vec::new();
        };
        let keys = ["dataset", "missing_rate", "available", "missing"];
        let is_key = |c: &str| keys.contains(&c) || c.ends_with("_pct") || c.ends_with("_sd");
        let scores = self
            .columns
            .iter()
            .filter(|c| !is_key(c))
            .filter_map(|column| {
                let method = column.strip_suffix("_mean").unwrap_or(column);
                let sd = self.cell(row, &format!("{method}_sd"));
                Some(PaperScore {
                    method: method.to_string(),
                    value: self.cell(row, column)?.parse().ok()?,
                    deviation: sd.and_then(|sd| sd.parse().ok()),
                })
            });
        scores.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score_of(scores: &[PaperScore], method: &str) -> (f64, Option<f64>) {
        let found = scores.iter().find(|f| f.method == method).unwrap();
        (found.value, found.deviation)
    }

    #[test]
    fn scores_are_those_that_the_paper_prints() {
        let one = PaperTable::open(1).unwrap();
        assert_eq!(
            score_of(&one.scores_in_column("food101_accuracy"), "u2a").0,
            94.47
        );
        assert_eq!(
            one.scores_in_column("mm_imdb_f1_macro").len(),
            7,
            "MLA reports none"
        );
        let three = PaperTable::open(3).unwrap();
        let wanted = [
            ("dataset", "mm-imdb"),
            ("image_pct", "65"),
            ("text_pct", "65"),
        ];
        let row = three.scores_in_row(&wanted);
        assert_eq!(score_of(&row, "u2a"), (54.04, Some(0.23)));
        assert_eq!(score_of(&row, "vilt"), (36.30, None));
        assert_eq!(row.len(), 10);
        let four = PaperTable::open(4).unwrap();
        let row = four.scores_in_row(&[("dataset", "crema-d"), ("available", "video")]);
        assert_eq!(score_of(&row, "ogm_ge"), (28.09, None));
        assert!(PaperTable::open(7).is_err());
    }
}
