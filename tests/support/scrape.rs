//! Metrics, as a node shows them.

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
}
