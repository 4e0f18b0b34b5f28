//! How evenly something is shared.

/// Jain's index: 1 when all have the same, 1/n when one has everything (Jain, Chiu and Hawe, DEC-TR-301, 1984).
pub fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares == 0.0 { 1.0 } else { sum * sum / (shares.len() as f64 * squares) }
}
