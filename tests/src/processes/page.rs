//! The report as one page of HTML that needs nothing else.

use std::time::Duration;

use super::chart::{Band, Chart, Series, escaped};
use super::lag::percentile;
use super::report::{Outcome, Report, ms};

/// How many points a scatter shows: more only make the page heavy.
const DOTS_MAX: usize = 4_000;

/// The least lag that a logarithmic axis shows, in milliseconds.
const LAG_FROM_MS: f64 = 1.0;

/// What percentiles are drawn and listed.
const PERCENTILES: [f64; 8] = [10.0, 25.0, 50.0, 75.0, 90.0, 99.0, 99.9, 100.0];

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1c2430;--dim:#667085;--paper:#fff;--card:#f7f8fa;--rule:#dfe3e8;
--c0:#2563eb;--c1:#f08c00;--c2:#2b8a3e;--c3:#9c36b5;--c4:#868e96;--c5:#c92a2a}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--dim:#98a2b3;--paper:#14181f;--card:#1b2029;--rule:#2f3743;
--c0:#6ea8fe;--c1:#ff922b;--c2:#69db7c;--c3:#da77f2;--c4:#adb5bd;--c5:#ff8787}}
*{box-sizing:border-box}body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0}
main{max-width:1040px;margin:0 auto;padding:24px 20px 60px}h1{font-size:24px;margin:0 0 4px}h2{font-size:17px;
margin:34px 0 6px}p{margin:4px 0;color:var(--dim)}.tiles{display:grid;gap:12px;margin:20px 0;
grid-template-columns:repeat(4,1fr)}@media(max-width:700px){.tiles{grid-template-columns:repeat(2,1fr)}}.tile{background:var(--card);border:1px solid var(--rule);
border-radius:10px;padding:12px 14px}.tile b{display:block;font-size:22px;font-weight:600;
font-variant-numeric:tabular-nums}.tile span{color:var(--dim);font-size:13px}.good b{color:var(--c2)}.bad b{color:var(--c5)}
svg{width:100%;height:auto;background:var(--card);border:1px solid var(--rule);border-radius:10px;display:block}
svg text{font:12px system-ui,sans-serif;fill:var(--dim)}.grid{stroke:var(--rule)}.axis{stroke:var(--dim)}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}.dot{opacity:.35}
.line.c0{stroke:var(--c0)}.line.c1{stroke:var(--c1)}.line.c2{stroke:var(--c2)}.line.c3{stroke:var(--c3)}
.line.c4{stroke:var(--c4)}.line.c5{stroke:var(--c5)}.dot.c0{fill:var(--c0)}.dot.c4{fill:var(--c4)}.dot.c5{fill:var(--c5)}
.band{opacity:.16}.kill{fill:var(--c5);opacity:.3}.stop{fill:var(--c1)}.partition{fill:var(--c3)}
.skew{fill:var(--c4);opacity:.55}.legend{display:flex;flex-wrap:wrap;gap:6px 18px;margin:6px 0 8px;font-size:13px;
color:var(--dim)}.legend i{display:inline-block;width:14px;height:10px;border-radius:2px;margin-right:6px}
table{border-collapse:collapse;margin:8px 0;font-variant-numeric:tabular-nums}th,td{text-align:right;padding:3px 14px;
border-bottom:1px solid var(--rule)}th:first-child,td:first-child{text-align:left}
ul{padding-left:20px}li{white-space:pre-wrap}.i0{background:var(--c0)}.i1{background:var(--c1)}.i2{background:var(--c2)}
.i3{background:var(--c3)}.i4{background:var(--c4)}.i5{background:var(--c5)}";

/// A whole page around its content.
pub(crate) fn page(title: &str, content: &str) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><style>{STYLE}</style></head>\n\
         <body><main>\n<h1>{title}</h1>\n{content}\n</main></body></html>\n"
    )
}

/// A figure with what it means; green or red where it is a verdict.
pub(crate) fn tile(figure: &str, meaning: &str, good: Option<bool>) -> String {
    let class = good.map_or("", |good| if good { " good" } else { " bad" });
    format!("<div class=\"tile{class}\"><b>{}</b><span>{}</span></div>", escaped(figure), escaped(meaning))
}

/// A plot under its heading, with a sentence and a legend.
pub(crate) fn section(chart: &Chart, about: &str, further: &[(&str, &str)]) -> String {
    let entry = |class: &str, name: &str| format!("<span><i class=\"{class}\"></i>{}</span>", escaped(name));
    let named = chart.series.iter().filter(|series| !series.name.is_empty());
    let mut legend: String = named.map(|series| entry(&series.class.replace('c', "i"), &series.name)).collect();
    legend.extend(further.iter().map(|(class, name)| entry(class, name)));
    let (title, about) = (escaped(chart.title), escaped(about));
    format!("<h2>{title}</h2><p>{about}</p><div class=\"legend\">{legend}</div>{}", chart.svg())
}

/// The page of a run.
pub(crate) fn of(report: &Report, outcome: &Outcome) -> String {
    let arguments = &report.arguments;
    let mut content = format!(
        "<p>{} devices, {} writes per second aimed at, {} s, seed {}, faults: {}</p>",
        arguments.nodes,
        arguments.rate,
        arguments.length.as_secs(),
        arguments.seed,
        escaped(&arguments.faults)
    );
    content.push_str(&tiles(outcome));
    if !outcome.failures.is_empty() {
        content.push_str("<h2>What is wrong</h2><ul>");
        content.extend(
            outcome.failures.iter().flat_map(|failure| ["<li>".to_owned(), escaped(failure), "</li>".to_owned()]),
        );
        content.push_str("</ul>");
    }
    let marks = [("i5", "killed"), ("i1", "frozen"), ("i3", "parted"), ("i4", "clock set")];
    content.push_str(&section(
        &lag(report),
        "From an acknowledged commit until its record shows on another device: one dot is one record on one device; \
         those that were down see it when they are back.",
        &marks,
    ));
    content.push_str(&section(&throughput(report), "Acknowledged writes in each second, of all devices.", &marks));
    content.push_str(&section(
        &percentiles(report),
        "Calm samples have nothing to do with a fault: neither device was down, and no partition was.",
        &[],
    ));
    content.push_str(&table(report));
    content.push_str(&section(&memory(report), "Resident memory; each line is one process until its end.", &marks));
    content.extend(report.notes.iter().flat_map(|note| ["<p>".to_owned(), escaped(note), "</p>".to_owned()]));
    page("Starling under load and faults", &content)
}

fn tiles(outcome: &Outcome) -> String {
    let shown = |value: Option<f64>, unit: &str| value.map_or("-".to_owned(), |value| format!("{value:.1} {unit}"));
    let growth = outcome.more["late_mib_per_minute"].as_f64();
    let tiles = [
        tile(&outcome.acked.to_string(), "writes acknowledged", None),
        tile(&outcome.lost.to_string(), "of them lost", Some(outcome.lost == 0)),
        tile(if outcome.equal { "equal" } else { "not equal" }, "all devices in the end", Some(outcome.equal)),
        tile(&shown(outcome.seconds_to_equal, "s"), "from healing to equality", None),
        tile(&shown(outcome.p50_ms, "ms"), "commit to others, median", None),
        tile(&shown(outcome.p99_ms, "ms"), "99th percentile, faults included", None),
        tile(&shown(outcome.more["calm_p99_ms"].as_f64(), "ms"), "99th percentile, calm", None),
        tile(&shown(growth, "MiB/min"), "memory growth, late in long lives", None),
    ];
    format!("<div class=\"tiles\">{}</div>", tiles.concat())
}

fn bands(report: &Report) -> Vec<Band> {
    let faults = report.plan.faults.iter();
    let named = |devices: &[usize]| devices.iter().map(|device| format!("d{device}")).collect::<Vec<_>>().join(" ");
    let band = faults.map(|fault| Band {
        class: fault.kind,
        title: format!("{} {}", fault.kind, named(&fault.devices)),
        from: fault.from.as_secs_f64(),
        to: fault.to.as_secs_f64(),
    });
    band.collect()
}

fn over_time(report: &Report, title: &'static str, y_label: &'static str, series: Vec<Series>) -> Chart {
    let last = series.iter().flat_map(|series| &series.points).map(|(x, _)| *x).fold(0.0, f64::max);
    let x_max = report.arguments.length.as_secs_f64().max(last);
    let bands = bands(report);
    Chart { title, x_label: "seconds", y_label, x_max, log_from: None, x_ticks: None, bands, series }
}

fn lag(report: &Report) -> Chart {
    let samples = report.samples();
    let every = samples.len().div_ceil(DOTS_MAX).max(1);
    let dots = samples.iter().step_by(every).map(|sample| (sample.committed.as_secs_f64(), ms(sample.lag))).collect();
    let mut seconds: Vec<Vec<Duration>> = Vec::new();
    for sample in &samples {
        let second = usize::try_from(sample.committed.as_secs()).unwrap_or_default();
        seconds.resize_with(seconds.len().max(second + 1), Vec::new);
        seconds[second].push(sample.lag);
    }
    let medians = seconds.iter_mut().enumerate().filter_map(|(second, lags)| {
        lags.sort_unstable();
        Some((middle_of(second), ms(percentile(lags, 50.0)?)))
    });
    let medians = medians.collect();
    let series = vec![
        Series { name: "one record on one device".to_owned(), class: "c0", line: false, points: dots },
        Series { name: "median of each second".to_owned(), class: "c2", line: true, points: medians },
    ];
    Chart { log_from: Some(LAG_FROM_MS), ..over_time(report, "Lag over time", "milliseconds", series) }
}

fn middle_of(second: usize) -> f64 {
    f64::from(u32::try_from(second).unwrap_or(u32::MAX)) + 0.5
}

fn throughput(report: &Report) -> Chart {
    let length = usize::try_from(report.arguments.length.as_secs()).unwrap_or_default();
    let mut seconds = vec![0_u32; length];
    for (_, written) in report.run.ledger.lock().all_acked() {
        let second = written.acked.map(|at| at.as_secs()).and_then(|second| usize::try_from(second).ok());
        if let Some(count) = second.and_then(|second| seconds.get_mut(second)) {
            *count += 1;
        }
    }
    let points = seconds.iter().enumerate().map(|(second, count)| (middle_of(second), f64::from(*count))).collect();
    let (rate, end) = (f64::from(report.arguments.rate), report.arguments.length.as_secs_f64());
    let series = vec![
        Series { name: "aimed at".to_owned(), class: "c4", line: true, points: vec![(0.0, rate), (end, rate)] },
        Series { name: "acknowledged".to_owned(), class: "c0", line: true, points },
    ];
    over_time(report, "Throughput", "writes per second", series)
}

fn sorted(samples: &[super::lag::Sample]) -> Vec<Duration> {
    let mut lags: Vec<Duration> = samples.iter().map(|sample| sample.lag).collect();
    lags.sort_unstable();
    lags
}

fn percentiles(report: &Report) -> Chart {
    let place = |index: usize| f64::from(u32::try_from(index).unwrap_or_default()) + 0.5;
    let points = |lags: &[Duration]| {
        let values = PERCENTILES.iter().enumerate();
        values.filter_map(|(index, percent)| Some((place(index), ms(percentile(lags, *percent)?)))).collect()
    };
    let (all, calm) = (points(&sorted(&report.samples())), points(&sorted(&report.calm())));
    let ticks = PERCENTILES.iter().enumerate().map(|(index, percent)| (place(index), format!("{percent} %"))).collect();
    Chart {
        title: "Latency percentiles",
        x_label: "share of samples that are at most this late",
        y_label: "milliseconds",
        x_max: f64::from(u32::try_from(PERCENTILES.len()).unwrap_or_default()),
        log_from: Some(LAG_FROM_MS),
        x_ticks: Some(ticks),
        bands: Vec::new(),
        series: vec![
            Series { name: "all".to_owned(), class: "c0", line: true, points: all },
            Series { name: "calm".to_owned(), class: "c2", line: true, points: calm },
        ],
    }
}

fn table(report: &Report) -> String {
    let row = |name: &str, lags: &[Duration]| {
        let cells = PERCENTILES.map(|percent| match percentile(lags, percent) {
            Some(lag) => format!("<td>{:.1}</td>", ms(lag)),
            None => "<td>-</td>".to_owned(),
        });
        format!("<tr><td>{name}</td><td>{}</td>{}</tr>", lags.len(), cells.concat())
    };
    let heads = PERCENTILES.map(|percent| format!("<th>{percent} %</th>")).concat();
    let (all, calm) = (row("all", &sorted(&report.samples())), row("calm", &sorted(&report.calm())));
    format!("<table><tr><th>milliseconds</th><th>samples</th>{heads}</tr>{all}{calm}</table>")
}

fn memory(report: &Report) -> Chart {
    let memory = report.run.memory.lock();
    let classes = ["c0", "c1", "c2", "c3", "c4", "c5"];
    let series = memory.lives().map(|(device, life)| Series {
        name: String::new(),
        class: classes[device % classes.len()],
        line: true,
        points: life.iter().map(|(at, mib)| (at.as_secs_f64(), *mib)).collect(),
    });
    over_time(report, "Memory", "MiB", series.collect())
}
