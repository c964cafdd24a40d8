//! One measurement: a program of a size in a model, once.

use serde::Serialize;

/// What one run of one program took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// `sync`, `socket`, `peers`, `blas1`, `blas2`, `blas3`, `laplace`, `pi`, `nbody`.
    pub program: String,
    /// The program's variant: a precision, a number of dimensions; empty if there is one only.
    pub variant: String,
    /// The programming model, or the channel.
    pub model: String,
    /// Bytes, elements, rows, intervals or particles.
    pub size: u64,
    /// Exchanges, iterations or steps.
    pub repetitions: u64,
    /// Number of the run, from 0.
    pub run: usize,
    /// Of an exchange there and back, the mean; of any other program, all its repetitions together.
    pub nanoseconds: f64,
    /// The program's result, which every model must agree on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// How single exchanges spread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
}

/// How the exchanges of a run spread, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Spread {
    /// Of single exchanges, in square nanoseconds.
    pub variance: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub least: f64,
    pub most: f64,
}

impl Sample {
    /// Column names of [`Sample::csv`].
    pub const CSV: &'static str =
        "program,variant,model,size,repetitions,run,nanoseconds,value,variance,p50,p90,p99,p999,least,most";

    /// A line of comma-separated values; what there is not is empty. Names are in quotation marks: they have commas in them.
    pub fn csv(&self) -> String {
        let start = format!(
            "{},{},\"{}\",{},{},{},{:.2},{}",
            self.program,
            self.variant,
            self.model,
            self.size,
            self.repetitions,
            self.run,
            self.nanoseconds,
            self.value.map_or(String::new(), |v| v.to_string())
        );
        match self.spread {
            Some(s) => format!(
                "{start},{:.6e},{:.2},{:.2},{:.2},{:.2},{:.2},{:.2}",
                s.variance, s.p50, s.p90, s.p99, s.p999, s.least, s.most
            ),
            None => format!("{start},,,,,,,"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_as_many_columns_as_the_heading() {
        let mut sample = Sample {
            program: "pi".into(),
            variant: String::new(),
            model: "Vshmem, two VMs".into(),
            size: 1,
            repetitions: 2,
            run: 0,
            nanoseconds: 3.5,
            value: Some(3.25),
            spread: None,
        };
        let columns = Sample::CSV.split(',').count();
        assert_eq!(sample.csv(), "pi,,\"Vshmem, two VMs\",1,2,0,3.50,3.25,,,,,,,");
        let fields = |line: String| line.replace("Vshmem, two VMs", "").split(',').count();
        assert_eq!(fields(sample.csv()), columns);
        let (variance, p50, p90, p99, p999, least, most) = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0);
        sample.spread = Some(Spread {
            variance,
            p50,
            p90,
            p99,
            p999,
            least,
            most,
        });
        assert_eq!(fields(sample.csv()), columns);
    }
}
