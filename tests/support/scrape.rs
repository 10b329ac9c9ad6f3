//! Metrics, as a node shows them.

use std::collections::BTreeMap;

/// One look at `/metrics`.
#[derive(Clone, Debug)]
pub(crate) struct Scrape(String);

impl Scrape {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// The sum of all series of a name whose labels contain each of `labels` (`reason="banned"`).
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let series = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (found, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            let meant = labels.iter().all(|label| found.contains(label));
            meant.then(|| value.trim().parse::<f64>().ok())?
        });
        series.sum()
    }

    /// The series of a name, by their label `reason`; one without it is under the empty name.
    pub(crate) fn reasons(&self, name: &str) -> BTreeMap<String, f64> {
        let series = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            let reason = labels.split_once("reason=\"");
            let reason = reason.map_or("", |(_, rest)| rest.split('"').next().unwrap_or(rest));
            Some((reason.to_owned(), value.trim().parse().ok()?))
        });
        series.collect()
    }
}
