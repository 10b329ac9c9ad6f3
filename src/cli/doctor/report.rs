//! What was found, and how it is printed.

use std::fmt::Display;

use serde::Serialize;

use super::WITHIN;

/// What comes of looking at one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Verdict {
    #[serde(rename = "ok")]
    Ok,
    #[serde(rename = "warn")]
    Warn,
    #[serde(rename = "FAIL")]
    Fail,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    says: String,
}

/// All findings, in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Report(Vec<Finding>);

impl Report {
    /// It will do.
    pub(super) fn ok(&mut self, check: &'static str, says: impl Display) {
        self.add(check, Verdict::Ok, &says);
    }

    /// It will do, with a drawback.
    pub(super) fn warn(&mut self, check: &'static str, says: impl Display) {
        self.add(check, Verdict::Warn, &says);
    }

    /// It will not do. `says` ends with what to do.
    pub(super) fn fail(&mut self, check: &'static str, says: impl Display) {
        self.add(check, Verdict::Fail, &says);
    }

    /// Its time was up before anything could be said of it.
    pub(super) fn late(&mut self, check: &'static str, of: impl Display) {
        let says = format!(
            "{of}: not answered within the {WITHIN:?} that there are for all of it; find what holds it up"
        );
        self.fail(check, says);
    }

    fn add(&mut self, check: &'static str, verdict: Verdict, says: &dyn Display) {
        // A line each, whatever an error's text holds.
        let says = says.to_string();
        self.0.push(Finding {
            check,
            verdict,
            says: says.split_whitespace().collect::<Vec<_>>().join(" "),
        });
    }

    /// Returns true if nothing has failed.
    pub(super) fn is_well(&self) -> bool {
        self.0
            .iter()
            .all(|finding| finding.verdict != Verdict::Fail)
    }

    /// A line for each finding, or one JSON document.
    pub(super) fn print(&self, json: bool) -> serde_json::Result<String> {
        if json {
            let document = serde_json::json!({ "ok": self.is_well(), "checks": self.0 });
            return serde_json::to_string_pretty(&document);
        }
        let lines = self.0.iter().map(|finding| {
            let verdict = match finding.verdict {
                Verdict::Ok => "ok",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
            };
            format!("{verdict:<5}{:<20}{}", finding.check, finding.says)
        });
        Ok(lines.collect::<Vec<_>>().join("\n"))
    }
}
