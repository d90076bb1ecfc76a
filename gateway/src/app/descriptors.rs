//! How many connections the process's file descriptors allow, so that the store never lacks one.

/// Descriptors kept for the journal, the records, providers and the operator.
const KEPT: usize = 128;
/// Of all descriptors, connections get at most so many in a hundred.
const PERCENT_MAX: usize = 80;

/// The lower of `wanted` and what the limit of open files leaves for connections.
pub(super) fn connections(wanted: usize) -> usize {
    let Some(files) = std::fs::read_to_string("/proc/self/limits").ok().and_then(|t| soft(&t))
    else {
        return wanted;
    };
    let allowed = allowed(files);
    if allowed < wanted {
        tracing::warn!(
            open_files = files,
            connections = allowed,
            "the limit of open files allows fewer connections than server.max_connections; raise it"
        );
    }
    allowed.min(wanted)
}

fn allowed(files: usize) -> usize {
    (files.saturating_mul(PERCENT_MAX) / 100).min(files.saturating_sub(KEPT)).max(1)
}

/// The soft limit of open files; `None` if there is none. See proc_pid_limits(5).
fn soft(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_keeps_its_descriptors_whatever_the_limit() {
        for (files, connections) in
            [(1_000_000, 800_000), (1_024, 819), (640, 512), (256, 128), (100, 1), (0, 1)]
        {
            assert_eq!(allowed(files), connections, "{files}");
        }
    }

    #[test]
    fn the_soft_limit_is_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             unlimited            unlimited            processes \n\
                    Max open files            256                  524288               files     \n";
        assert_eq!(soft(text), Some(256));
        assert_eq!(soft(&text.replace("256 ", "unlimited ")), None);
        assert_eq!(soft(""), None);
    }
}
