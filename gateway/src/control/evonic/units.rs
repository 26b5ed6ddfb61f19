//! Figures as `docker stats` writes them (docker/go-units: `BytesSize`, `HumanSizeWithPrecision`).

const BINARY: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const DECIMAL: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];

/// Of memory: `142MiB`, `1.503GiB`.
pub(super) fn binary(bytes: u64) -> String {
    text(bytes, 1024.0, &BINARY, 4)
}

/// Of what was moved: `2.1MB`.
pub(super) fn decimal(bytes: u64) -> String {
    text(bytes, 1000.0, &DECIMAL, 3)
}

/// `27.73%`
pub(super) fn percent(percent: f64) -> String {
    format!("{percent:.2}%")
}

fn text(bytes: u64, base: f64, units: &[&str; 6], digits: usize) -> String {
    let (mut size, mut unit) = (bytes as f64, 0);
    while size >= base && unit + 1 < units.len() {
        (size, unit) = (size / base, unit + 1);
    }
    // As C's `%.4g`, but never with an exponent.
    let whole = 1 + [10.0, 100.0, 1000.0].iter().filter(|least| size >= **least).count();
    let number = format!("{size:.*}", digits.saturating_sub(whole));
    let number = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => &number,
    };
    format!("{number}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_docker_writes_them() {
        for (bytes, in_binary, in_decimal) in [
            (0, "0B", "0B"),
            (999, "999B", "999B"),
            (1024, "1KiB", "1.02kB"),
            (142 << 20, "142MiB", "149MB"),
            (512 << 20, "512MiB", "537MB"),
            (1_614_000_000, "1.503GiB", "1.61GB"),
            (2_100_000, "2.003MiB", "2.1MB"),
            (12_500_000, "11.92MiB", "12.5MB"),
            (1_048_500_000, "999.9MiB", "1.05GB"),
            (u64::MAX, "16384PiB", "18447PB"),
        ] {
            assert_eq!((&*binary(bytes), &*decimal(bytes)), (in_binary, in_decimal), "{bytes}");
        }
        assert_eq!(percent(27.734), "27.73%");
    }
}
