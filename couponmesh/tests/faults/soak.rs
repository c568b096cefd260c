//! Short, as everyone runs these tests, or long: `COUPONMESH_SOAK=1`.

/// Whether this is the long run.
pub(crate) fn is_long() -> bool {
    std::env::var("COUPONMESH_SOAK").is_ok_and(|value| value == "1")
}

/// One or the other.
pub(crate) fn pick<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// Prints a figure that was seen; the test harness shows it when asked to (`--nocapture`).
pub(crate) fn say(test: &str, what: &str) {
    println!("{test}: {what}");
}
