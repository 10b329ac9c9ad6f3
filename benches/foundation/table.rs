//! The figures, as a Markdown table.

use std::fmt;

/// Rows of figures with a column for each binary. All are costs: of several passes the lowest counts.
pub(crate) struct Table {
    columns: Vec<String>,
    rows: Vec<Row>,
    notes: Vec<String>,
}

struct Row {
    what: String,
    bar: String,
    values: Vec<Option<f64>>,
}

impl Table {
    pub(crate) fn new(columns: &[String]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Keeps a figure, unless an earlier pass had a lower one. `bar` is what it is to be at most; empty: nothing is said.
    pub(crate) fn put(&mut self, column: usize, what: &str, bar: &str, value: f64) {
        let known = self.rows.iter().position(|row| row.what == what);
        let at = known.unwrap_or_else(|| {
            self.rows.push(Row {
                what: what.to_owned(),
                bar: bar.to_owned(),
                values: vec![None; self.columns.len()],
            });
            self.rows.len() - 1
        });
        let kept = &mut self.rows[at].values[column];
        *kept = Some(kept.map_or(value, |other| other.min(value)));
    }

    /// Keeps a line that is printed below the table, instead of an earlier one with this beginning.
    pub(crate) fn latest(&mut self, column: usize, beginning: &str, note: &str) {
        let beginning = format!("{}: {beginning}:", self.columns[column]);
        self.notes.retain(|note| !note.starts_with(&beginning));
        self.note(column, note);
    }

    /// Keeps a line that is printed below the table, once.
    pub(crate) fn note(&mut self, column: usize, what: impl fmt::Display) {
        let note = format!("{}: {what}", self.columns[column]);
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| | bar | {} |", self.columns.join(" | "))?;
        writeln!(f, "|---|---|{}", "---|".repeat(self.columns.len()))?;
        for row in &self.rows {
            let values = row
                .values
                .iter()
                .map(|value| value.map_or("–".into(), short));
            let values: Vec<String> = values.collect();
            writeln!(f, "| {} | {} | {} |", row.what, row.bar, values.join(" | "))?;
        }
        for note in &self.notes {
            writeln!(f, "\n- {note}")?;
        }
        Ok(())
    }
}

/// With as many digits as mean something.
fn short(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
