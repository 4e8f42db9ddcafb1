//! Generations: however many came before, the start of a job and its promotion take the same.

use anyhow::ensure;

use super::Bench;
use super::hook::Hook;
use super::lines::Lines;
use super::table::{Budget, Judged, Row};

const LINE: &str = "bench/line";
/// Generations of the line, and how many at its ends are compared.
const SAMPLE: Length = Length {
    generations: 20,
    compared: 5,
};
const FULL: Length = Length {
    generations: 200,
    compared: 20,
};
/// What the first generation holds, in megabytes.
const CONTENT_MB: u32 = 10;
/// How often the end of a pod is measured beside a promotion.
const ENDS: usize = 20;
/// How much longer than the first the last may take.
const RATIO: Budget = Budget::most(1.2);
/// What may come to the end of the pod, in milliseconds.
const PROMOTION: Budget = Budget::most(1000.0);

#[derive(Clone, Copy)]
struct Length {
    generations: usize,
    compared: usize,
}

impl Bench<'_> {
    /// Jobs that promote, each a clone of the one before.
    pub(super) async fn generations(&mut self) -> anyhow::Result<()> {
        Box::pin(self.with_lines(&[LINE], async |bench, lines| {
            lines.fill(LINE, CONTENT_MB).await?;
            let mut hook = lines.runner(LINE, true).await?;
            let measured = bench.promotions(lines, &mut hook).await;
            hook.runner.discard().await?;
            measured
        }))
        .await
    }

    async fn promotions(&mut self, lines: &Lines<'_>, hook: &mut Hook) -> anyhow::Result<()> {
        let length = if self.full { FULL } else { SAMPLE };
        // It promotes too: the second generation.
        let mut floor = lines.floor(LINE, hook).await?;
        let mut starts = Vec::new();
        let (mut floors, mut ends) = (Vec::new(), Vec::new());
        for number in 0..length.generations {
            let paired = number % (length.generations / ENDS) == 0;
            if paired {
                floors.push(floor.measure(None).await?.end);
            }
            starts.push(hook.prepare_job(&[]).await?.wall_ms);
            let end = lines.end(hook).await?;
            if paired {
                ends.push(end);
            }
        }
        let reached = lines.entry(LINE).await?["current"].as_u64();
        let expected = u64::try_from(length.generations)? + 2;
        ensure!(
            reached == Some(expected),
            "the line came to generation {reached:?}, not {expected}"
        );
        let first = starts[..length.compared].to_vec();
        let last = starts[starts.len() - length.compared..].to_vec();
        let Length {
            generations,
            compared,
        } = length;
        let what = format!("prepare, last {compared} of {generations} (the first)");
        let row = Row::over(what, "ms", first, last).judged(Judged::Ratio);
        self.tell(row.within(RATIO));
        let what = "promotion (floor: the end of a pod)";
        self.tell(Row::over(what, "ms", floors, ends).within(PROMOTION));
        Ok(())
    }
}
