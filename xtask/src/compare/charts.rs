//! The results as SVG charts: bars for the ratios, lines for the curves.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::results::{Ratio, Results, Round, Row, Section, Subject};

const WIDTH: u32 = 1000;
const CURVE_HEIGHT: u32 = 420;
/// Height of a load's group of bars, and of what is around them.
const GROUP_HEIGHT: u32 = 46;
const MARGINS: u32 = 120;
/// Room for the names of the loads.
const NAMES: u32 = 430;
/// Ratios below this are drawn as this.
const LEAST: f64 = 0.1;
const FONT: &str = "sans-serif";

/// Longtail first; then the peers in their order.
const COLOURS: [RGBColor; 3] = [
    RGBColor(0x1f, 0x6f, 0xb4),
    RGBColor(0xd9, 0x6c, 0x1a),
    RGBColor(0x5a, 0x8f, 0x29),
];

/// A chart to be written.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) file: String,
    pub(super) svg: String,
}

/// The file of a section's chart; none if it has nothing to draw.
pub(super) fn file(section: &Section) -> Option<String> {
    let is_drawn = !section.is_ceiling && section.rows.iter().any(Row::is_measured);
    is_drawn.then(|| format!("{}.svg", section.name))
}

/// One chart a section.
///
/// # Errors
/// When one cannot be drawn.
pub(super) fn all(results: &Results) -> Result<Vec<Chart>> {
    let mut charts = Vec::new();
    for section in &results.sections {
        let Some(file) = file(section) else { continue };
        let mut svg = String::new();
        match section.over {
            None => bars(&mut svg, section),
            Some(over) => lines(&mut svg, section, over),
        }
        .map_err(|error| anyhow!("drawing {file}: {error}"))?;
        charts.push(Chart { file, svg });
    }
    Ok(charts)
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// Ratios of throughput and processor time for every load, on a logarithmic axis: what is left of 1 is a loss.
fn bars(svg: &mut String, section: &Section) -> Drawn {
    let rows: Vec<&Row> = section
        .rows
        .iter()
        .filter(|row| row.is_measured())
        .collect();
    let ratios = [
        (Ratio::Throughput, COLOURS[0], "throughput"),
        (Ratio::Cpu, COLOURS[1], "processor time an operation"),
    ];
    let values = |row: &Row| ratios.map(|(ratio, ..)| row.to_best(ratio).map(|(_, spread)| spread));
    let spreads: Vec<_> = rows.iter().flat_map(|row| values(row)).flatten().collect();
    let low = spreads
        .iter()
        .map(|spread| spread.low.max(LEAST))
        .fold(0.5, f64::min);
    let high = spreads.iter().map(|spread| spread.high).fold(2.0, f64::max);
    let height = MARGINS + GROUP_HEIGHT * rows.len() as u32;
    let root = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let groups = rows.len() as f64;
    let title = format!("{}: times as good as the best peer", section.title);
    let mut chart = ChartBuilder::on(&root)
        .caption(title, (FONT, 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(NAMES)
        .build_cartesian_2d((low * 0.9..high * 1.4).log_scale(), groups..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|value| format!("{value}x"))
        .label_style((FONT, 13))
        .draw()?;
    for (ratio, colour, name) in ratios {
        let place = if matches!(ratio, Ratio::Throughput) {
            0.14
        } else {
            0.5
        };
        let bars = (0u32..).zip(&rows).filter_map(|(number, row)| {
            let spread = row.to_best(ratio)?.1;
            let top = f64::from(number) + place;
            Some((top, spread))
        });
        let bars: Vec<_> = bars.collect();
        chart
            .draw_series(bars.iter().map(|&(top, spread)| {
                Rectangle::new(
                    [(1.0, top), (spread.median.max(LEAST), top + 0.34)],
                    colour.filled(),
                )
            }))?
            .label(name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled()));
        chart.draw_series(bars.iter().map(|&(top, spread)| {
            let middle = top + 0.17;
            PathElement::new(
                [(spread.low.max(LEAST), middle), (spread.high, middle)],
                BLACK,
            )
        }))?;
        let style = TextStyle::from((FONT, 13)).pos(Pos::new(HPos::Left, VPos::Center));
        chart.draw_series(bars.iter().map(|&(top, spread)| {
            let at = spread.high.max(1.0) * 1.03;
            let text = format!("{:.2}x", spread.median);
            Text::new(text, (at, top + 0.17), style.clone())
        }))?;
    }
    chart.draw_series([PathElement::new([(1.0, 0.0), (1.0, groups)], BLACK)])?;
    let style = TextStyle::from((FONT, 13)).pos(Pos::new(HPos::Right, VPos::Center));
    for (number, row) in (0u32..).zip(&rows) {
        let (_, y) = chart.backend_coord(&(1.0, f64::from(number) + 0.5));
        let name = format!("{}: {}", row.durability, row.load);
        root.draw(&Text::new(name, (NAMES as i32, y), style.clone()))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.9))
        .label_font((FONT, 13))
        .draw()?;
    root.present()?;
    Ok(())
}

/// Throughput and p99 of every server side by side, both axes logarithmic: super-linear is steeper than its neighbour.
fn lines(svg: &mut String, section: &Section, over: &str) -> Drawn {
    let root = SVGBackend::with_string(svg, (WIDTH, CURVE_HEIGHT)).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(section.title, (FONT, 18))?;
    let (left, right) = root.split_horizontally(WIDTH / 2);
    let throughput = |subject: &Subject| Some(subject.throughput()?.median);
    graph(&left, section, over, "a second", &throughput)?;
    let tail = |subject: &Subject| Some(subject.spread(Round::p99_us)?.median);
    graph(&right, section, over, "p99 us", &tail)?;
    root.present()?;
    Ok(())
}

/// A label of an axis: 20k, 3M.
fn short(value: &f64) -> String {
    match *value {
        value if value >= 1e6 => format!("{}M", value / 1e6),
        value if value >= 1e3 => format!("{}k", value / 1e3),
        value => format!("{value}"),
    }
}

/// A line: the number of its server, its name, its points.
type Series = (usize, String, Vec<(f64, f64)>);

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn graph(
    area: &Area<'_>,
    section: &Section,
    over: &str,
    what: &str,
    value: &dyn Fn(&Subject) -> Option<f64>,
) -> Drawn {
    // A load of two halves (fill and drain) gives two lines a server.
    let mut series: Vec<Series> = Vec::new();
    for row in section.rows.iter().filter(|row| row.is_measured()) {
        let Some(at) = row.at else { continue };
        for (number, subject) in row.subjects.iter().enumerate() {
            let Some(value) = value(subject).filter(|value| *value > 0.0) else {
                continue;
            };
            let half = row
                .load
                .split([' ', ','])
                .find(|word| matches!(*word, "fill" | "drain"));
            let name = half.map_or_else(
                || subject.name.clone(),
                |half| format!("{} {half}", subject.name),
            );
            let point = (at as f64, value);
            match series.iter_mut().find(|(_, known, _)| *known == name) {
                Some((_, _, points)) => points.push(point),
                None => series.push((number, name, vec![point])),
            }
        }
    }
    let points = || series.iter().flat_map(|(_, _, points)| points);
    let range = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let low = points().map(of).fold(f64::INFINITY, f64::min);
        let high = points().map(of).fold(0.0, f64::max);
        low.min(high) * 0.7..high * 1.5
    };
    if points().next().is_none() {
        return Ok(());
    }
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(
            range(&|point| point.0).log_scale(),
            range(&|point| point.1).log_scale(),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(over)
        .y_desc(what)
        .x_label_formatter(&short)
        .y_label_formatter(&short)
        .label_style((FONT, 12))
        .draw()?;
    for (number, name, points) in &series {
        let colour = COLOURS[number % COLOURS.len()];
        // The second line of a server is thinner.
        let width = if name.ends_with("drain") { 1 } else { 3 };
        chart
            .draw_series(LineSeries::new(
                points.iter().copied(),
                colour.stroke_width(width),
            ))?
            .label(name)
            .legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(width))
            });
        let dots = points
            .iter()
            .map(|&point| Circle::new(point, 3, colour.filled()));
        chart.draw_series(dots)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .label_font((FONT, 12))
        .draw()?;
    Ok(())
}
