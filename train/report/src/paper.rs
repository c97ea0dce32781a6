//! The paper's own figures (tables 1 to 6 of Reza et al. 2025), as facts in CSV files of `paper/`.

use anyhow::{Result, bail};

/// A table of the paper.
pub struct PaperTable {
    columns: Vec<&'static str>,
    rows: Vec<Vec<&'static str>>,
}

/// What a method scores in the paper.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Figure {
    /// The method as the paper calls it, in lower case.
    pub method: String,
    /// Per cent.
    pub value: f64,
    /// Standard deviation, where the paper gives one.
    pub deviation: Option<f64>,
}

/// `OGM-GE` and `ogm_ge` are one.
pub fn plain(method: &str) -> String {
    method
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect()
}

impl PaperTable {
    /// Table `number`, 1 to 6.
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

    /// All cells by column name, row by row.
    pub fn rows(&self) -> impl Iterator<Item = Vec<(&'static str, &'static str)>> + '_ {
        self.rows.iter().map(|row| {
            self.columns
                .iter()
                .copied()
                .zip(row.iter().copied())
                .collect()
        })
    }

    /// Tables with one row per method: the figures in `column`.
    pub fn by_row(&self, column: &str) -> Vec<Figure> {
        let figure = |row: &Vec<&'static str>| {
            Some(Figure {
                method: plain(row.first()?),
                value: self.cell(row, column)?.parse().ok()?,
                deviation: None,
            })
        };
        self.rows.iter().filter_map(figure).collect()
    }

    /// Tables with one column per method: the figures of the row whose cells are as wanted.
    pub fn by_column(&self, wanted: &[(&str, &str)]) -> Vec<Figure> {
        let fits = |row: &&Vec<&'static str>| {
            let same = |(column, value): &(&str, &str)| self.cell(row, column) == Some(*value);
            wanted.iter().all(same)
        };
        let Some(row) = self.rows.iter().find(fits) else {
            return Vec::new();
        };
        let keys = ["dataset", "missing_rate", "available", "missing"];
        let is_key = |c: &str| keys.contains(&c) || c.ends_with("_pct") || c.ends_with("_sd");
        let figures = self
            .columns
            .iter()
            .filter(|c| !is_key(c))
            .filter_map(|column| {
                let method = column.strip_suffix("_mean").unwrap_or(column);
                let sd = self.cell(row, &format!("{method}_sd"));
                Some(Figure {
                    method: method.to_string(),
                    value: self.cell(row, column)?.parse().ok()?,
                    deviation: sd.and_then(|sd| sd.parse().ok()),
                })
            });
        figures.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(figures: &[Figure], method: &str) -> (f64, Option<f64>) {
        let found = figures.iter().find(|f| f.method == method).unwrap();
        (found.value, found.deviation)
    }

    #[test]
    fn figures_as_printed() {
        let one = PaperTable::open(1).unwrap();
        assert_eq!(of(&one.by_row("food101_accuracy"), "u2a").0, 94.47);
        assert_eq!(one.by_row("mm_imdb_f1_macro").len(), 7, "MLA reports none");
        let three = PaperTable::open(3).unwrap();
        let wanted = [
            ("dataset", "mm-imdb"),
            ("image_pct", "65"),
            ("text_pct", "65"),
        ];
        let row = three.by_column(&wanted);
        assert_eq!(of(&row, "u2a"), (54.04, Some(0.23)));
        assert_eq!(of(&row, "vilt"), (36.30, None));
        assert_eq!(row.len(), 10);
        let four = PaperTable::open(4).unwrap();
        let row = four.by_column(&[("dataset", "crema-d"), ("available", "video")]);
        assert_eq!(of(&row, "ogm_ge"), (28.09, None));
        assert!(PaperTable::open(7).is_err());
    }
}
