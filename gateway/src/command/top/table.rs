//! What `coppice top` shows: the sandboxes in the order and selection that its user wants, as text.

use std::{
    cmp::Ordering,
    collections::HashMap,
    str::FromStr,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::keys::Key;

/// Of the gateway's answer, what is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Overview {
    running: usize,
    paused: usize,
    sandboxes: Vec<Watched>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Watched {
    #[serde(rename = "sandboxID")]
    id: String,
    #[serde(rename = "templateID")]
    template: String,
    tenant: String,
    state: String,
    started_at: DateTime<Utc>,
    cpu_used_pct: Option<f64>,
    mem_used: Option<u64>,
    mem_total: u64,
    disk_used: Option<u64>,
    processes: Option<u64>,
    requests: u64,
    /// A second, since the look before.
    #[serde(skip)]
    rate: Option<f64>,
}

macro_rules! columns {
    ($($column:ident $name:literal $key:literal $head:literal $width:literal,)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Column {
            $($column,)+
        }

        impl Column {
            const ALL: &[Self] = &[$(Self::$column),+];

            fn name(self) -> &'static str {
                match self { $(Self::$column => $name,)+ }
            }

            /// By which it is sorted by.
            fn key(self) -> char {
                match self { $(Self::$column => $key,)+ }
            }

            fn head(self) -> &'static str {
                match self { $(Self::$column => $head,)+ }
            }

            fn width(self) -> usize {
                match self { $(Self::$column => $width,)+ }
            }
        }
    };
}

// What matters most comes first, and has room in eighty columns.
columns! {
    Id "id" 'i' "SANDBOX" 12,
    State "state" 's' "STATE" 10,
    Age "age" 'a' "AGE" 7,
    Cpu "cpu" 'c' "CPU%" 6,
    Memory "memory" 'm' "MEMORY" 17,
    Disk "disk" 'd' "DISK" 8,
    Processes "processes" 'p' "PROC" 5,
    Rate "rate" 'x' "REQ/S" 7,
    Requests "requests" 'r' "REQUESTS" 9,
    Tenant "tenant" 't' "TENANT" 12,
    Template "template" 'l' "TEMPLATE" 20,
}

impl FromStr for Column {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = || Self::ALL.iter().map(|column| column.name()).collect::<Vec<_>>().join(", ");
        let found = Self::ALL.iter().find(|column| column.name() == text);
        found.copied().ok_or_else(|| format!("one of {}", all()))
    }
}

impl Column {
    /// Numbers stand at the right, and the largest come first.
    fn is_number(self) -> bool {
        !matches!(self, Self::Id | Self::Tenant | Self::Template | Self::State)
    }

    fn order(self, one: &Watched, other: &Watched) -> Ordering {
        let larger =
            |a: Option<f64>, b: Option<f64>| b.unwrap_or(-1.0).total_cmp(&a.unwrap_or(-1.0));
        match self {
            Self::Id => one.id.cmp(&other.id),
            Self::Tenant => one.tenant.cmp(&other.tenant),
            Self::Template => one.template.cmp(&other.template),
            Self::State => one.state.cmp(&other.state),
            Self::Age => one.started_at.cmp(&other.started_at),
            Self::Cpu => larger(one.cpu_used_pct, other.cpu_used_pct),
            Self::Memory => other.mem_used.cmp(&one.mem_used),
            Self::Disk => other.disk_used.cmp(&one.disk_used),
            Self::Processes => other.processes.cmp(&one.processes),
            Self::Rate => larger(one.rate, other.rate),
            Self::Requests => other.requests.cmp(&one.requests),
        }
    }

    fn cell(self, of: &Watched, now: DateTime<Utc>) -> String {
        let unknown = || "-".to_owned();
        match self {
            // As figures call it.
            Self::Id => of.id.chars().take(12).collect(),
            Self::Tenant => of.tenant.clone(),
            Self::Template => of.template.clone(),
            Self::State => of.state.to_lowercase(),
            Self::Age => age((now - of.started_at).to_std().unwrap_or_default()),
            Self::Cpu => of.cpu_used_pct.map_or_else(unknown, |percent| format!("{percent:.1}")),
            Self::Memory => {
                let used = of.mem_used.map_or_else(unknown, size);
                format!("{used}/{}", size(of.mem_total))
            }
            Self::Disk => of.disk_used.map_or_else(unknown, size),
            Self::Processes => of.processes.map_or_else(unknown, |count| count.to_string()),
            Self::Rate => of.rate.map_or_else(unknown, |rate| format!("{rate:.1}")),
            Self::Requests => of.requests.to_string(),
        }
    }
}

/// A line of the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) text: String,
    pub(super) marked: bool,
}

impl Shown {
    /// Whatever came from elsewhere moves no cursor.
    fn new(text: &str, marked: bool) -> Self {
        let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        Self { text: text.chars().map(shown).collect(), marked }
    }
}

pub(super) struct Table {
    sort: Column,
    reversed: bool,
    filter: String,
    /// What is typed after `/` is part of the filter.
    typing: bool,
    /// How many are not shown, above the first.
    above: usize,
    /// How many there was room for.
    room: usize,
    now: DateTime<Utc>,
    running: usize,
    paused: usize,
    all: Vec<Watched>,
    /// Of each, and when.
    before: (Option<Instant>, HashMap<String, u64>),
}

impl Table {
    pub(super) fn new(sort: Column, filter: String) -> Self {
        Self {
            sort,
            reversed: false,
            filter,
            typing: false,
            above: 0,
            room: 0,
            now: Utc::now(),
            running: 0,
            paused: 0,
            all: Vec::new(),
            before: (None, HashMap::new()),
        }
    }

    /// What there is now.
    pub(super) fn take(&mut self, found: Overview, at: Instant) {
        self.now = Utc::now();
        (self.running, self.paused, self.all) = (found.running, found.paused, found.sandboxes);
        let (when, counts) = &self.before;
        let passed = when.map(|when| at.duration_since(when).as_secs_f64());
        if let Some(passed) = passed.filter(|passed| *passed > 0.0) {
            for one in &mut self.all {
                // Another gateway counts anew.
                let more = counts.get(&one.id).and_then(|was| one.requests.checked_sub(*was));
                one.rate = more.map(|more| more as f64 / passed);
            }
        }
        let counts = self.all.iter().map(|one| (one.id.clone(), one.requests)).collect();
        self.before = (Some(at), counts);
    }

    /// False where that key is to end it all.
    pub(super) fn hears(&mut self, key: Key) -> bool {
        match key {
            Key::Text(typed) if self.typing => self.filter.push(typed),
            Key::Erase if self.typing => drop(self.filter.pop()),
            Key::Enter => self.typing = false,
            Key::Escape => {
                self.typing = false;
                self.filter.clear();
            }
            Key::Up => self.above = self.above.saturating_sub(1),
            Key::Down => self.above += 1,
            Key::PageUp => self.above = self.above.saturating_sub(self.room),
            Key::PageDown => self.above += self.room,
            Key::Text('q') => return false,
            Key::Text('/') => self.typing = true,
            Key::Text('R') => self.reversed = !self.reversed,
            Key::Text(typed) => {
                if let Some(column) = Column::ALL.iter().find(|column| column.key() == typed) {
                    (self.sort, self.reversed) = (*column, false);
                }
            }
            Key::Erase | Key::Interrupt | Key::Suspend | Key::Redraw => {}
        }
        true
    }

    fn chosen(&self) -> Vec<&Watched> {
        let wanted = self.filter.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&wanted);
        let fits = |one: &&Watched| {
            [&one.id, &one.tenant, &one.template, &one.state].into_iter().any(|text| has(text))
        };
        let mut chosen: Vec<_> = self.all.iter().filter(fits).collect();
        chosen.sort_by(|one, other| {
            let order = self.sort.order(one, other);
            let order = if self.reversed { order.reverse() } else { order };
            // So that none that are alike change places.
            order.then_with(|| one.id.cmp(&other.id))
        });
        chosen
    }

    /// As many lines as there are rows at most, and as wide as may be; `trouble` is why it is not up
    /// to date.
    pub(super) fn lines(
        &mut self,
        rows: usize,
        columns: usize,
        trouble: Option<&str>,
    ) -> Vec<Shown> {
        const AROUND: usize = 4;
        let count = self.chosen().len();
        self.room = rows.saturating_sub(AROUND).max(1);
        self.above = self.above.min(count.saturating_sub(self.room));
        let fitting = fitting(columns);
        let chosen = self.chosen();
        let below = chosen.iter().skip(self.above).take(self.room);
        let mut lines = vec![
            Shown::new(&self.summary(&chosen), false),
            Shown::default(),
            Shown::new(&row(fitting, |column| column.head().to_owned()), true),
        ];
        lines.extend(
            below.map(|one| Shown::new(&row(fitting, |column| column.cell(one, self.now)), false)),
        );
        if rows != usize::MAX {
            lines.resize(rows.saturating_sub(1), Shown::default());
            lines.push(match trouble {
                Some(trouble) => Shown::new(&format!("not up to date: {trouble}"), true),
                None => Shown::new(&self.help(), false),
            });
            lines.truncate(rows);
        }
        lines
    }

    fn summary(&self, chosen: &[&Watched]) -> String {
        let sum = |of: fn(&Watched) -> Option<u64>| -> u64 {
            chosen.iter().filter_map(|one| of(one)).sum()
        };
        // Nothing sums up to -0.0.
        let total = |of: fn(&Watched) -> Option<f64>| -> f64 {
            chosen.iter().filter_map(|one| of(one)).fold(0.0, |sum, one| sum + one)
        };
        let (cpu, rates) = (total(|one| one.cpu_used_pct), total(|one| one.rate));
        let shown = match (chosen.len(), self.filter.as_str()) {
            (count, "") if count == self.all.len() => String::new(),
            (count, _) => format!("{count} shown, "),
        };
        format!(
            "{} running, {} paused; {shown}cpu {cpu:.1}%, memory {}, disk {}, {} processes, \
             {rates:.1} requests/s",
            self.running,
            self.paused,
            size(sum(|one| one.mem_used)),
            size(sum(|one| one.disk_used)),
            sum(|one| one.processes),
        )
    }

    fn help(&self) -> String {
        if self.typing {
            return format!("show only: {}_  (Enter to keep, Esc for all)", self.filter);
        }
        let keys = Column::ALL.iter().map(|column| format!("{} {}", column.key(), column.name()));
        let keys = keys.collect::<Vec<_>>().join(", ");
        let order = if self.reversed { ", reversed" } else { "" };
        let only = if self.filter.is_empty() { "" } else { ", Esc all" };
        format!("by {}{order} | / only{only}, R reverse, q quit | {keys}", self.sort.name())
    }
}

/// Those for which there is room, of the first.
fn fitting(columns: usize) -> &'static [Column] {
    let mut width = 0;
    let wide = Column::ALL.iter().take_while(|column| {
        width += column.width() + 1;
        width <= columns.saturating_add(1)
    });
    &Column::ALL[..wide.count().max(1)]
}

fn row(columns: &[Column], cell: impl Fn(Column) -> String) -> String {
    let cells = columns.iter().map(|column| {
        let (text, width) = (cell(*column), column.width());
        let text: String = text.chars().take(width).collect();
        if column.is_number() { format!("{text:>width$}") } else { format!("{text:<width$}") }
    });
    cells.collect::<Vec<_>>().join(" ")
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut number = bytes as f64;
    let mut unit = 0;
    // What would be rounded to 1024 is one of the next.
    while number >= 1023.5 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    match number {
        small if unit > 0 && small < 9.95 => format!("{small:.1}{}", UNITS[unit]),
        number => format!("{number:.0}{}", UNITS[unit]),
    }
}

fn age(passed: Duration) -> String {
    let seconds = passed.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(id: &str, tenant: &str, cpu: Option<f64>, requests: u64) -> serde_json::Value {
        json!({
            "sandboxID": id, "templateID": "base", "tenant": tenant, "state": "Running",
            "startedAt": "2026-01-02T03:04:05.678Z", "cpuCount": 2, "cpuUsedPct": cpu,
            "memUsed": 300 << 20, "memTotal": 1_u64 << 30, "diskTotal": 5, "processes": 3,
            "requests": requests, "of": "a newer gateway",
        })
    }

    fn overview(sandboxes: Vec<serde_json::Value>) -> Overview {
        let running = sandboxes.len();
        let all = json!({"running": running, "paused": 1, "sandboxes": sandboxes});
        serde_json::from_value(all).unwrap()
    }

    fn table() -> Table {
        let mut table = Table::new(Column::Cpu, String::new());
        let all = vec![
            one("aaaaaaaaaaaaaaaaaaaa", "acme", Some(5.0), 10),
            one("bbbbbbbbbbbbbbbbbbbb", "other", Some(150.26), 0),
            one("cccccccccccccccccccc", "acme", None, 7),
        ];
        table.take(overview(all), Instant::now());
        table
    }

    fn ids(table: &mut Table) -> Vec<String> {
        let lines = table.lines(usize::MAX, usize::MAX, None);
        lines[3..].iter().map(|line| line.text.chars().take(1).collect()).collect()
    }

    fn type_in(table: &mut Table, text: &str) {
        for typed in text.chars() {
            assert!(table.hears(Key::Text(typed)));
        }
    }

    #[test]
    fn rows_say_what_each_uses_and_the_first_line_what_all_do() {
        let mut table = table();
        table.now = "2026-01-02T05:04:05.678Z".parse().unwrap();
        let lines = table.lines(usize::MAX, usize::MAX, None);
        assert_eq!(
            lines[0].text,
            "3 running, 1 paused; cpu 155.3%, memory 900MiB, disk 0B, 9 processes, 0.0 requests/s"
        );
        assert_eq!(
            lines[2].text,
            "SANDBOX      STATE          AGE   CPU%            MEMORY     DISK  PROC   REQ/S  REQUESTS TENANT       TEMPLATE            "
        );
        assert_eq!(
            lines[3].text,
            "bbbbbbbbbbbb running      2h00m  150.3     300MiB/1.0GiB        -     3       -         0 other        base                "
        );
        assert!(lines[2].marked && !lines[3].marked);
    }

    #[test]
    fn rows_come_in_the_order_and_the_selection_that_keys_ask_for() {
        let mut table = table();
        assert_eq!(ids(&mut table), ["b", "a", "c"]);
        type_in(&mut table, "r");
        assert_eq!(ids(&mut table), ["a", "c", "b"]);
        type_in(&mut table, "R");
        assert_eq!(ids(&mut table), ["b", "c", "a"]);
        type_in(&mut table, "t?");
        assert_eq!(ids(&mut table), ["a", "c", "b"]);
        // What is typed into the filter is no command.
        type_in(&mut table, "/ACMq");
        assert!(table.lines(10, 80, None)[9].text.starts_with("show only: ACMq_"));
        table.hears(Key::Erase);
        table.hears(Key::Enter);
        assert_eq!(ids(&mut table), ["a", "c"]);
        assert!(table.lines(10, 80, None)[0].text.contains("2 shown, cpu 5.0%"));
        table.hears(Key::Escape);
        assert_eq!(ids(&mut table).len(), 3);
        assert!(!table.hears(Key::Text('q')));
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let mut table = table();
        let (then, _) = &table.before;
        let later = then.unwrap() + Duration::from_secs(2);
        // One has begun anew, one is new.
        let all = [("aaaa", 25), ("bbbb", 0), ("cccc", 3), ("dddd", 9)];
        let all = all.map(|(id, requests)| one(&id.repeat(5), "acme", None, requests));
        table.take(overview(all.to_vec()), later);
        let rates: Vec<_> = table.all.iter().map(|one| one.rate).collect();
        assert_eq!(rates, [Some(7.5), Some(0.0), None, None]);
    }

    #[test]
    fn a_screen_is_filled_and_never_more_than_that() {
        let mut table = table();
        let few = table.lines(5, 30, Some("gone\x1b[2J"));
        assert_eq!(few.len(), 5);
        assert_eq!(few[2].text, "SANDBOX      STATE     ");
        assert_eq!(few[4].text, "not up to date: gone\u{fffd}[2J");
        assert!(few[3].text.starts_with('b'));
        table.hears(Key::PageDown);
        table.hears(Key::Down);
        table.hears(Key::Down);
        assert!(table.lines(5, 30, None)[3].text.starts_with('c'));
        table.hears(Key::Up);
        assert!(table.lines(5, 30, None)[3].text.starts_with('a'));
        assert_eq!(table.lines(1, 1, None).len(), 1);
        assert!(
            table.lines(24, 80, None)[23].text.starts_with("by cpu | / only, R reverse, q quit")
        );
    }

    #[test]
    fn sizes_and_ages_are_short() {
        let sizes = [0, 1023, 1024, 10 << 20, (1 << 30) - 1, 5 << 40].map(size);
        assert_eq!(sizes, ["0B", "1023B", "1.0KiB", "10MiB", "1.0GiB", "5.0TiB"]);
        let ages = [0, 59, 61, 3661, 90_000].map(|it| age(Duration::from_secs(it)));
        assert_eq!(ages, ["0s", "59s", "1m01s", "1h01m", "1d01h"]);
        assert!("size".parse::<Column>().unwrap_err().starts_with("one of id, state"));
    }
}
