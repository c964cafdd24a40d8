//! The HTML page of a report: claims, figures, machine, what is missing. No script, nothing from elsewhere.

use super::ReportOptions;
use super::claims::Claim;
use super::figures::Figure;
use super::machine::Machine;
use crate::paper::Extent;
use crate::paper::campaign::Outcome;
use crate::paper::summary;
use std::fmt::Write as _;

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:84em;margin:2em auto;padding:0 1em;color:#222}\
h1,h2{font-weight:600}table{border-collapse:collapse;margin:1em 0}td,th{border-bottom:1px solid #ddd;padding:.25em .8em;text-align:left}\
.met{color:#060}.missed{color:#a00;font-weight:600}figure{display:inline-block;margin:.5em}img{max-width:100%}\
pre{background:#f6f6f6;padding:1em;overflow-x:auto;font-size:12px}";

/// The page.
pub(crate) fn page(
    outcome: &Outcome,
    machine: &Machine,
    options: &ReportOptions,
    claims: &[Claim],
    figures: &[(Figure, Vec<String>)],
) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Vshmem: the paper's evaluation</title>\n<style>{STYLE}</style>\n\
         <h1>Vshmem: the paper's evaluation, measured</h1>\n\
         <p>Youseff &amp; Wolski, <i>Vshmem: Shared-Memory OS-Support for Multicore-based HPC systems</i>, sections V and VI. Lines are the means of the \
         runs, dots the runs. Raw values: <a href=\"samples.csv\">samples.csv</a>, <a href=\"report.json\">report.json</a>.</p>\n"
    );
    on_machine(&mut html, machine, options);
    claim_table(&mut html, claims);
    gaps(&mut html, outcome);
    for (figure, plots) in figures {
        let number = match figure.number {
            "" => String::new(),
            number => format!("Figure {number}: "),
        };
        let _ = writeln!(html, "<h2>{number}{}</h2>", escaped(figure.title));
        for (file, plot) in plots.iter().zip(&figure.plots) {
            let _ = writeln!(
                html,
                "<figure><img src=\"{file}\" alt=\"{}\"></figure>",
                escaped(&plot.title)
            );
        }
    }
    html.push_str("<h2>Every median</h2>\n<pre>");
    for line in summary::lines(&outcome.samples) {
        let _ = writeln!(html, "{}", escaped(&line));
    }
    html.push_str("</pre>\n</html>\n");
    html
}

fn on_machine(html: &mut String, machine: &Machine, options: &ReportOptions) {
    let extent = if options.extent == Extent::Short {
        "short"
    } else {
        "long"
    };
    let rows = [
        ("Processor", machine.processor.clone()),
        ("Which is", machine.hypervisor.clone()),
        ("Memory", format!("{} MiB", machine.memory)),
        ("Kernel", machine.kernel.clone()),
        ("Guests", machine.guests.clone()),
        ("Versions", machine.versions.join("; ")),
        ("Load before and after", machine.load.join("; ")),
        (
            "Extent",
            format!("{extent}, {} runs, {} s", options.rounds, machine.took),
        ),
        ("Seconds since the epoch", machine.began.to_string()),
    ];
    html.push_str("<h2>The machine</h2>\n<table>\n");
    for (name, value) in rows {
        let _ = writeln!(html, "<tr><th>{name}</th><td>{}</td></tr>", escaped(&value));
    }
    html.push_str(
        "</table>\n<p>A busy machine preempts parties that wait for each other busily, for milliseconds at a time: means suffer from that, the middle \
         exchange hardly. In User-mode Linux guests arithmetic and memory run at full speed and system calls cost some 10 µs each, so TCP between such \
         guests is slower than between hardware-assisted ones.</p>\n",
    );
}

fn claim_table(html: &mut String, claims: &[Claim]) {
    html.push_str(
        "<h2>Claimed and measured</h2>\n<p>Control: ratios of the means of the same run, their median over the runs. Everything else: ratios of the \
         best runs, which what else the machine does disturbs least; of a program's variants the worst. Beside them: between what the middle ratio of paired runs \
         lies with 95 %, by the sign test.</p>\n\
         <table>\n<tr><th>What</th><th>The paper</th><th>Target</th><th>Measured here</th><th>95 % of the runs</th><th></th></tr>\n",
    );
    for claim in claims {
        let word = claim.word();
        let class = match claim.met {
            Some(false) => "missed",
            Some(true) => word,
            None => "",
        };
        let word = match claim.met {
            Some(false) => format!("{word}: <a href=\"{}\">why</a>", escaped(&claim.page())),
            _ => word.to_owned(),
        };
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"{class}\">{word}</td></tr>",
            escaped(&claim.claim),
            escaped(&claim.paper),
            escaped(&claim.target),
            escaped(&claim.measured),
            escaped(&claim.interval)
        );
    }
    html.push_str("</table>\n");
}

fn gaps(html: &mut String, outcome: &Outcome) {
    if outcome.gaps.is_empty() {
        return;
    }
    html.push_str("<h2>Not measured</h2>\n<table>\n");
    for gap in &outcome.gaps {
        let class = if gap.failed { "missed" } else { "" };
        let _ = writeln!(
            html,
            "<tr><td class=\"{class}\">{}</td><td>{}</td></tr>",
            escaped(&gap.name),
            escaped(&gap.why)
        );
    }
    html.push_str("</table>\n");
}

/// Text as HTML wants it.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
