//! Figures over the size of the fleet, drawn as SVG.

use plotters::prelude::*;

use crate::{
    figures::{ROWS, Results},
    peers::Peer,
    tables,
};

/// The figures that are drawn.
pub(crate) const DRAWN: [&str; 6] = [
    "send.servers",
    "send.redis",
    "send.p99",
    "room.servers",
    "broadcast.servers",
    "broadcast.p99",
];

const SIZE: (u32, u32) = (640, 360);
/// The lowest value on the axes, which are logarithmic and have no zero.
const LEAST: f64 = 0.1;

/// How far the axes reach above the highest value, for the legend.
const ROOM: f64 = 6.0;

/// File names and drawings.
pub(crate) fn of(results: &Results) -> Vec<(String, String)> {
    let drawn = DRAWN.iter();
    drawn.map(|id| (file(id), draw(results, id))).collect()
}

/// The name of a drawing in `docs/images`.
pub(crate) fn file(id: &str) -> String {
    format!("performance-{}.svg", id.replace('.', "-"))
}

fn draw(results: &Results, id: &str) -> String {
    let sizes = results.sizes();
    let row = ROWS.iter().find(|row| row.id == id).unwrap();
    let lines = results.peers().into_iter().map(|peer| {
        let points = sizes.iter().enumerate();
        let points = points.filter_map(|(at, size)| {
            let value = results.get(peer, *size, id)?;
            Some((at as f64, value.max(LEAST)))
        });
        (peer, points.collect::<Vec<_>>())
    });
    let lines: Vec<_> = lines.collect();
    let values = lines
        .iter()
        .flat_map(|(_, points)| points.iter().map(|(_, value)| *value));
    let (low, high) = values.fold((f64::MAX, LEAST), |(low, high), value| {
        (low.min(value), high.max(value))
    });

    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    area.fill(&WHITE).unwrap();
    let last = sizes.len().saturating_sub(1) as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption(row.title, ("sans-serif", 20))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(56)
        .build_cartesian_2d(-0.2..last + 0.2, (low / 1.5..high * ROOM).log_scale())
        .unwrap();
    let nodes = |at: &f64| {
        let whole = (at - at.round()).abs() < 0.01;
        let size = whole.then(|| sizes.get(at.round() as usize)).flatten();
        size.map_or(String::new(), |size| tables::title(*size).to_lowercase())
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 15))
        .x_labels(sizes.len() * 2)
        .x_label_formatter(&nodes)
        .y_label_formatter(&|value| format!("{value}"))
        .draw()
        .unwrap();
    for (peer, points) in lines {
        let style = colour(peer).stroke_width(2);
        chart
            .draw_series(LineSeries::new(points, style).point_size(3))
            .unwrap()
            .label(peer.to_string())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .label_font(("sans-serif", 15))
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .position(SeriesLabelPosition::UpperLeft)
        .draw()
        .unwrap();
    drop(chart);
    drop(area);
    svg
}

/// Told apart by colour-blind readers too (the palette of Okabe and Ito).
fn colour(peer: Peer) -> RGBColor {
    match peer {
        Peer::Switchboard => RGBColor(0, 114, 178),
        Peer::SocketIo => RGBColor(213, 94, 0),
        Peer::SocketIoSharded => RGBColor(230, 159, 0),
        Peer::Socketioxide => RGBColor(0, 158, 115),
        Peer::Centrifugo => RGBColor(204, 121, 167),
    }
}
