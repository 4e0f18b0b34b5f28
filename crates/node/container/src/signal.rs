//! Signals by name.

/// A signal by name (`SIGTERM`, `TERM`, `RTMIN+3`) or number.
#[must_use]
pub fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let short = name.strip_prefix("SIG").unwrap_or(name);
    if let Some(offset) = short.strip_prefix("RTMIN") {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        return Some(nix::libc::SIGRTMIN() + offset);
    }
    if let Some(offset) = short.strip_prefix("RTMAX") {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.strip_prefix('-')?.parse().ok()? };
        return Some(nix::libc::SIGRTMAX() - offset);
    }
    format!("SIG{short}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name() {
        assert_eq!(signal_number("SIGQUIT"), Some(3));
        assert_eq!(signal_number("USR1"), Some(10));
        assert_eq!(signal_number("15"), Some(15));
        assert_eq!(signal_number("RTMIN+3"), Some(nix::libc::SIGRTMIN() + 3));
        assert_eq!(signal_number("nonsense"), None);
    }
}
