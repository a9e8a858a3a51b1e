//! Lengths that are drawn: inference-perf's `utils/distribution.py`.

use rand::rngs::SmallRng;
use rand::{Rng, RngExt as _};
use serde::Deserialize;

use super::{Wrong, wrong};

const REMEDY: &str = "write a length, or {type: normal, lognormal, uniform or fixed, min, max, mean, std_dev}, with min ≤ mean ≤ max and nothing negative";

/// A length, or how it is drawn.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Length {
    Fixed(u32),
    Drawn(Distribution),
}

/// `Distribution`, with its defaults.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Distribution {
    #[serde(rename = "type")]
    kind: Kind,
    min: u32,
    max: u32,
    mean: f64,
    std_dev: f64,
    /// How many are drawn before they repeat; here they do not.
    #[serde(rename = "total_count")]
    _total_count: Option<u64>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Normal,
    Lognormal,
    Uniform,
    Fixed,
}

impl Default for Distribution {
    fn default() -> Self {
        Self {
            kind: Kind::Normal,
            min: 10,
            max: 1024,
            mean: 512.0,
            std_dev: 200.0,
            _total_count: None,
        }
    }
}

// === impl Length ===

impl Length {
    /// The length; of one that is drawn, another each time.
    pub(super) fn draw(self, rng: &mut SmallRng) -> u32 {
        match self {
            Self::Fixed(length) => length,
            Self::Drawn(distribution) => distribution.draw(rng),
        }
    }

    /// Fails with the name of the field where it makes no sense.
    pub(super) fn check(self, field: &str) -> Result<(), Wrong> {
        let Self::Drawn(it) = self else {
            return Ok(());
        };
        let (min, max) = (f64::from(it.min), f64::from(it.max));
        let about = match it.kind {
            Kind::Uniform => true,
            Kind::Fixed => (0.0..f64::from(u32::MAX)).contains(&it.mean),
            Kind::Normal | Kind::Lognormal => (min..=max).contains(&it.mean),
        };
        if min <= max && about && it.std_dev >= 0.0 && it.std_dev.is_finite() {
            return Ok(());
        }
        wrong(format!("{field} has no such distribution"), REMEDY)
    }
}

// === impl Distribution ===

impl Distribution {
    fn draw(&self, rng: &mut SmallRng) -> u32 {
        let (min, max) = (f64::from(self.min), f64::from(self.max));
        let drawn = match self.kind {
            Kind::Fixed => return self.mean as u32,
            Kind::Uniform => min + (max - min) * rng.random::<f64>(),
            Kind::Normal => self.mean + self.std_dev * normal(rng),
            // The distance from the least length is what is lognormal, with that mean and deviation.
            Kind::Lognormal => {
                let mean = (self.mean - min).max(1.0);
                let variance = (self.std_dev / mean).powi(2).ln_1p();
                let location = mean.ln() - variance / 2.0;
                min + (location + variance.sqrt() * normal(rng)).exp()
            }
        };
        drawn.clamp(min, max).round() as u32
    }
}

/// A standard normal number: Box and Muller's transform.
fn normal(rng: &mut impl Rng) -> f64 {
    let (radius, angle): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn lengths_have_the_mean_and_the_deviation_that_they_should() {
        let mut rng = SmallRng::seed_from_u64(1);
        for (text, mean, deviation) in [
            ("{mean: 500, std_dev: 50, min: 100, max: 900}", 500.0, 50.0),
            (
                "{type: lognormal, mean: 300, std_dev: 100, min: 10, max: 100000}",
                300.0,
                100.0,
            ),
            ("{type: uniform, min: 100, max: 400}", 250.0, 86.6),
            ("{type: fixed, mean: 40}", 40.0, 0.0),
            ("77", 77.0, 0.0),
        ] {
            let length: Length = crate::config::read_yaml(text).unwrap();
            assert!(length.check("x").is_ok(), "{text}");
            let drawn: Vec<f64> = (0..20_000)
                .map(|_| f64::from(length.draw(&mut rng)))
                .collect();
            let of = drawn.iter().sum::<f64>() / 20_000.0;
            let squares = drawn.iter().map(|x| (x - of).powi(2)).sum::<f64>() / 20_000.0;
            assert!((of - mean).abs() <= 0.02 * mean, "{text}: {of}");
            assert!(
                (squares.sqrt() - deviation).abs() <= 0.03 * deviation,
                "{text}: {squares}"
            );
        }
        for text in ["{min: 9, max: 8}", "{mean: 5000}", "{std_dev: -1}"] {
            let length: Length = crate::config::read_yaml(text).unwrap();
            assert!(length.check("x").is_err(), "{text}");
        }
    }
}
