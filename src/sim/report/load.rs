//! How much the endpoints had to do, over time.

/// Stretches of time; their length doubles when they run out.
const STRETCHES: usize = 240;
/// Seconds of a stretch in the beginning.
const SHORTEST: f64 = 1.0;

/// Mean requests in flight of each endpoint in each stretch of time.
#[derive(Clone, Debug)]
pub struct LoadOverTime {
    endpoints: usize,
    /// Seconds.
    stretch: f64,
    /// By stretch, then by endpoint: seconds times requests.
    busy: Vec<f32>,
}

/// One stretch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stretch {
    /// Where it begins, in seconds.
    pub at: f64,
    /// Requests in flight at an endpoint: the mean over endpoints.
    pub mean: f64,
    /// At the least loaded one.
    pub min: f64,
    /// At the most loaded one.
    pub max: f64,
    /// Coefficient of variation over endpoints.
    pub cv: f64,
}

// === impl LoadOverTime ===

impl LoadOverTime {
    /// Of so many endpoints.
    pub fn new(endpoints: usize) -> Self {
        Self {
            endpoints,
            stretch: SHORTEST,
            busy: Vec::new(),
        }
    }

    /// A request was at `endpoint` between two times, in seconds.
    pub fn add(&mut self, endpoint: u32, from: f64, to: f64) {
        let endpoint = endpoint as usize;
        if endpoint >= self.endpoints || !(from >= 0.0 && to > from && to.is_finite()) {
            return;
        }
        while to >= self.stretch * STRETCHES as f64 {
            self.double();
        }
        let (first, last) = (from / self.stretch, to / self.stretch);
        let stretches = last as usize + 1;
        if self.busy.len() < stretches * self.endpoints {
            self.busy.resize(stretches * self.endpoints, 0.0);
        }
        for i in first as usize..stretches {
            let (begin, end) = (i as f64, (i + 1) as f64);
            let share = last.min(end) - first.max(begin);
            self.busy[i * self.endpoints + endpoint] += (share * self.stretch) as f32;
        }
    }

    fn double(&mut self) {
        self.stretch *= 2.0;
        let stretches = self.busy.len() / self.endpoints.max(1);
        for i in 0..stretches {
            for endpoint in 0..self.endpoints {
                let value = self.busy[i * self.endpoints + endpoint];
                let into = i / 2 * self.endpoints + endpoint;
                if i % 2 == 0 {
                    self.busy[into] = value;
                } else {
                    self.busy[into] += value;
                }
            }
        }
        self.busy.truncate(stretches.div_ceil(2) * self.endpoints);
    }

    /// Stretch by stretch.
    pub fn stretches(&self) -> impl Iterator<Item = Stretch> {
        let stretches = self.busy.chunks_exact(self.endpoints.max(1)).enumerate();
        stretches.map(|(i, busy)| {
            let loads = busy.iter().map(|&busy| f64::from(busy) / self.stretch);
            let n = busy.len() as f64;
            let mean = loads.clone().sum::<f64>() / n;
            let variance = loads.clone().map(|load| (load - mean).powi(2)).sum::<f64>() / n;
            Stretch {
                at: i as f64 * self.stretch,
                mean,
                min: loads.clone().fold(f64::INFINITY, f64::min),
                max: loads.fold(0.0, f64::max),
                cv: if mean > 0.0 {
                    variance.sqrt() / mean
                } else {
                    0.0
                },
            }
        })
    }

    /// CV, and max/mean, over stretches, each counting as much as the load in it.
    pub fn imbalance(&self) -> (f64, f64) {
        let (mut weight, mut cv, mut max) = (0.0, 0.0, 0.0);
        for stretch in self.stretches().filter(|stretch| stretch.mean > 0.0) {
            weight += stretch.mean;
            cv += stretch.cv * stretch.mean;
            max += stretch.max;
        }
        (cv / weight, max / weight)
    }
}
