//! `longtail top`: streams live, with rates, depths and latencies.
//!
//! A sample is what the server says at one moment; [`View`] is two samples compared, and knows nothing of terminals.

mod view;

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use longtail_admin::shapes::Listing;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row, Table};
use ratatui::{DefaultTerminal, Frame};

use super::client::{Client, shaped};
use super::table::{Align, table};
use crate::cli::TopArgs;
use crate::exit_codes::Failure;
use view::{COLUMNS, Sample, View};

/// Streams asked for.
const STREAMS: &str = "1000";
/// Shortest time between two looks.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

pub(crate) fn run(args: &TopArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client);
    let interval = Duration::from_millis(args.interval).max(INTERVAL_MIN);
    let start = Instant::now();
    let first = sample(&client, start)?;
    if args.once || args.client.json || !io::stdout().is_terminal() {
        std::thread::sleep(interval);
        let view = View::new(&first, &sample(&client, start)?);
        let text = if args.client.json { format!("{}\n", view.to_json()) } else { plain(&view) };
        return Ok(io::stdout().write_all(text.as_bytes())?);
    }
    let mut terminal = ratatui::try_init()?;
    let outcome = watch(&mut terminal, &client, first, start, interval);
    ratatui::restore();
    outcome
}

fn sample(client: &Client, start: Instant) -> Result<Sample, Failure> {
    let status = shaped(client.get("status", &[])?)?;
    let streams: Listing<_> = shaped(client.get("streams", &[("limit", STREAMS.to_owned())])?)?;
    Ok(Sample { at: start.elapsed(), status, streams: streams.items })
}

fn watch(
    terminal: &mut DefaultTerminal,
    client: &Client,
    mut last: Sample,
    start: Instant,
    interval: Duration,
) -> Result<(), Failure> {
    let mut view = View::new(&last, &last);
    loop {
        terminal.draw(|frame| draw(frame, &view))?;
        let due = last.at + interval;
        while let Some(left) = due.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
            if event::poll(left)? {
                match event::read()? {
                    Event::Key(key) if key.kind == KeyEventKind::Press => {
                        let interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
                        if interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                            return Ok(());
                        }
                    }
                    Event::Resize(..) => {
                        terminal.draw(|frame| draw(frame, &view))?;
                    }
                    _ => {}
                }
            }
        }
        let now = sample(client, start)?;
        view = View::new(&last, &now);
        last = now;
    }
}

fn draw(frame: &mut Frame<'_>, view: &View) {
    let summary = u16::try_from(view.summary.len()).unwrap_or(u16::MAX);
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(summary), Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(
        Paragraph::new(view.summary.iter().map(|line| Line::from(line.as_str())).collect::<Vec<_>>()),
        head,
    );
    let rows = view.rows.iter().map(|row| {
        let cells = row.cells.iter().zip(COLUMNS).map(|(cell, (_, align))| {
            let line = Line::from(cell.as_str());
            Cell::from(if *align == Align::Right { line.right_aligned() } else { line })
        });
        Row::new(cells)
    });
    let titles = COLUMNS.iter().map(|(title, align)| {
        let line = Line::from(*title);
        Cell::from(if *align == Align::Right { line.right_aligned() } else { line })
    });
    let widths = COLUMNS.iter().map(|(_, align)| match align {
        Align::Left => Constraint::Min(16),
        Align::Right => Constraint::Length(10),
    });
    frame.render_widget(Table::new(rows, widths).header(Row::new(titles).style(Style::new().bold().reversed())), body);
    frame.render_widget(Paragraph::new("q quits").dim(), foot);
}

fn plain(view: &View) -> String {
    let rows: Vec<Vec<String>> = view.rows.iter().map(|row| row.cells.clone()).collect();
    format!("{}\n\n{}", view.summary.join("\n"), table(COLUMNS, &rows))
}

#[cfg(test)]
mod tests {
    use longtail_admin::shapes::{Status, StreamCounts, StreamStatus};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn sample(seconds: u64, appended: u64) -> Sample {
        let counts = StreamCounts { ready: 7, appended_total: appended, ..StreamCounts::default() };
        let stream =
            StreamStatus { space: "default".to_owned(), name: "jobs".to_owned(), counts, ..StreamStatus::default() };
        let status = Status { version: "9.9".to_owned(), totals: counts, ..Status::default() };
        Sample { at: Duration::from_secs(seconds), status, streams: vec![stream] }
    }

    #[test]
    fn the_screen_shows_rates_and_depths() {
        let view = View::new(&sample(0, 100), &sample(2, 500));
        let mut terminal = Terminal::new(TestBackend::new(100, 12)).unwrap();
        terminal.draw(|frame| draw(frame, &view)).unwrap();
        let screen: String = terminal.backend().buffer().content().iter().map(ratatui::buffer::Cell::symbol).collect();
        for wanted in ["longtail 9.9", "jobs", "200", "q quits"] {
            assert!(screen.contains(wanted), "{wanted} is not in {screen}");
        }
        assert!(plain(&view).contains("jobs"));
    }
}
