//! The report of a run: a table for people, JSON for scripts, the exit code for both.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::faults::FaultRecord;
use super::oracle::Figures;

/// Whether the promise was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Verdict {
    /// Nothing was seen that breaks it.
    #[serde(rename = "held")]
    Held,
    /// Something was.
    #[serde(rename = "violated")]
    Violated,
    /// Too little was seen, or what was asked for did not happen.
    #[serde(rename = "not judged")]
    NotJudged,
}

impl Verdict {
    /// The verdict on a run that came to its end, and why it is not "held".
    ///
    /// A violation stands whatever became of the commands; but where nothing was acknowledged or delivered at all, the
    /// likely reason is a broker that was never reached, and there is nothing to judge.
    pub(crate) fn of(figures: &Figures, faults: &[FaultRecord]) -> (Self, Vec<String>) {
        for (count, what) in [
            (figures.acknowledged, "nothing was acknowledged"),
            (figures.delivered, "nothing was delivered"),
        ] {
            if count == 0 {
                return (Self::NotJudged, vec![what.to_owned()]);
            }
        }
        let violations = figures.violations();
        let violations: Vec<_> = violations
            .map(|(name, count)| format!("{name} is {count}"))
            .collect();
        if !violations.is_empty() {
            return (Self::Violated, violations);
        }
        let failures: Vec<_> = faults.iter().filter_map(FaultRecord::failure).collect();
        if failures.is_empty() {
            (Self::Held, Vec::new())
        } else {
            (Self::NotJudged, failures)
        }
    }

    /// What the process ends with.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            Self::Held => 0,
            Self::Violated => 1,
            Self::NotJudged => 2,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Held => "held",
            Self::Violated => "violated",
            Self::NotJudged => "not judged",
        })
    }
}

/// Everything a run has to say.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) figures: Figures,
    pub(crate) verdict: Verdict,
    /// Why the verdict is not "held".
    pub(crate) reasons: Vec<String>,
    /// The first violations in words.
    pub(crate) violations: Vec<String>,
    pub(crate) faults: Vec<FaultRecord>,
    /// In client identifiers and topics.
    pub(crate) run: String,
    pub(crate) seed: u64,
    /// How long the load went on.
    pub(crate) duration_ms: u64,
    pub(crate) targets: Vec<String>,
    /// Version of this program.
    pub(crate) version: &'static str,
}

impl Report {
    /// The table: one line for each figure, then the verdict, then what was wrong.
    pub(crate) fn table(&self) -> String {
        let mut table = String::new();
        let mut row = |name: &str, value: &dyn fmt::Display| {
            writeln!(table, "{name:<24} {value}").expect("strings take writes");
        };
        for (name, value) in self.rows() {
            row(name, &value);
        }
        for (reason, count) in &self.figures.refused_by_reason {
            row("", &format_args!("refused with {reason}: {count}"));
        }
        for fault in &self.faults {
            let code = fault.exit_code.map_or("-".to_owned(), |code| code.to_string());
            row(
                "fault",
                &format_args!("{} ms, exit code {code}: {}", fault.at_ms, fault.command),
            );
        }
        row("verdict", &self.verdict);
        for text in self.reasons.iter().chain(&self.violations) {
            row("", text);
        }
        table
    }

    fn rows(&self) -> Vec<(&'static str, u64)> {
        let figures = &self.figures;
        vec![
            ("acknowledged", figures.acknowledged),
            ("delivered", figures.delivered),
            ("lost", figures.lost),
            ("duplicates_qos2", figures.duplicates_qos2),
            ("order_violations", figures.order_violations),
            ("stale_retained", figures.stale_retained),
            ("wills_missing", figures.wills_missing),
            ("wills_doubled", figures.wills_doubled),
            ("dropped_by_policy", figures.dropped_by_policy),
            ("longest_wait_ms", figures.longest_wait_ms),
            ("longest_wait_at_ms", figures.longest_wait_at_ms),
            ("sessions_lost", figures.sessions_lost),
            ("wills_unwanted", figures.wills_unwanted),
            ("shared_lost", figures.shared_lost),
            ("shared_duplicates_qos2", figures.shared_duplicates_qos2),
            ("corrupted", figures.corrupted),
            ("protocol_errors", figures.protocol_errors),
            ("sent", figures.sent),
            ("refused", figures.refused),
            ("unknown", figures.unknown),
            ("unacknowledged", figures.unacknowledged),
            ("duplicates_qos1", figures.duplicates_qos1),
            ("order_unjudged", figures.order_unjudged),
            ("retained_acknowledged", figures.retained_acknowledged),
            ("retained_reads", figures.retained_reads),
            ("wills_due", figures.wills_due),
            ("wills_delivered", figures.wills_delivered),
            ("shared_acknowledged", figures.shared_acknowledged),
            ("shared_delivered", figures.shared_delivered),
            ("shared_duplicates_qos1", figures.shared_duplicates_qos1),
            ("reconnects", figures.reconnects),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures {
            acknowledged: 2,
            delivered: 2,
            ..Figures::default()
        }
    }

    fn fault(exit_code: Option<i32>, began_at_ms: Option<u64>) -> FaultRecord {
        FaultRecord {
            at_ms: 5,
            command: "true".to_owned(),
            exit_code,
            began_at_ms,
            took_ms: None,
        }
    }

    fn report(figures: Figures, faults: Vec<FaultRecord>) -> Report {
        let (verdict, reasons) = Verdict::of(&figures, &faults);
        Report {
            figures,
            verdict,
            reasons,
            violations: Vec::new(),
            faults,
            run: String::new(),
            seed: 0,
            duration_ms: 0,
            targets: Vec::new(),
            version: "",
        }
    }

    #[test]
    fn a_run_is_judged_when_all_it_needs_was_there() {
        let verdict = |figures: &Figures, faults: &[FaultRecord]| Verdict::of(figures, faults).0;
        assert_eq!(verdict(&figures(), &[]), Verdict::Held);
        assert_eq!(verdict(&figures(), &[fault(Some(0), Some(5))]), Verdict::Held);
        for failed in [fault(Some(1), Some(5)), fault(None, Some(5)), fault(None, None)] {
            assert_eq!(verdict(&figures(), &[failed]), Verdict::NotJudged);
        }
        let nothing = Figures {
            lost: 2,
            delivered: 0,
            ..figures()
        };
        assert_eq!(verdict(&nothing, &[]), Verdict::NotJudged);
        assert_eq!(verdict(&Figures::default(), &[]), Verdict::NotJudged);
    }

    #[test]
    fn a_violation_stands_whatever_else_failed() {
        let violated = Figures {
            wills_unwanted: 1,
            ..figures()
        };
        let (verdict, reasons) = Verdict::of(&violated, &[fault(Some(1), Some(5))]);
        assert_eq!((verdict, verdict.exit_code()), (Verdict::Violated, 1));
        assert_eq!(reasons, ["wills_unwanted is 1"]);
    }

    #[test]
    fn the_names_that_scripts_read_stay() {
        let report = report(figures(), vec![fault(Some(0), Some(5))]);
        let json = serde_json::to_value(&report).unwrap();
        for key in [
            "acknowledged",
            "delivered",
            "lost",
            "duplicates_qos2",
            "order_violations",
            "stale_retained",
            "wills_missing",
            "wills_doubled",
            "dropped_by_policy",
            "longest_wait_ms",
        ] {
            assert!(json[key].is_u64(), "{key}");
        }
        assert_eq!(json["verdict"], "held");
        assert_eq!(json["faults"][0]["exit_code"], 0);
    }

    #[test]
    fn the_table_has_every_count_of_the_json() {
        let report = report(figures(), vec![fault(Some(0), Some(5))]);
        let json = serde_json::to_value(&report.figures).unwrap();
        let counts = json
            .as_object()
            .unwrap()
            .iter()
            .filter(|(_, value)| value.is_u64());
        let mut counts: Vec<_> = counts.map(|(key, _)| key.as_str()).collect();
        let mut rows: Vec<_> = report.rows().into_iter().map(|(name, _)| name).collect();
        counts.sort_unstable();
        rows.sort_unstable();
        assert_eq!(rows, counts);
        assert!(
            report.table().contains("verdict                  held\n"),
            "{}",
            report.table()
        );
    }
}
