//! Clones: the start of a job does not depend on how much its parent holds.

use super::Bench;
use super::floor::Floor;
use super::hook::Hook;
use super::lines::Lines;
use super::table::{Budget, Judged, Row};

const SMALL: &str = "bench/small";
const LARGE: &str = "bench/large";
/// What their parents hold, in megabytes; and the large one's in a full run.
const SMALL_MB: u32 = 10;
const LARGE_MB: u32 = 256;
const FULL_MB: u32 = 5 << 10;
/// Samples of one run of the others: the driver's own second is in each.
const PER_RUN: usize = 2;
/// How much longer than the floor.
const RATIO: Budget = Budget::most(1.2);

impl Bench<'_> {
    /// Jobs with clones of a small and of a large parent, beside a pod with a bare clone.
    pub(super) async fn clones(&mut self) -> anyhow::Result<()> {
        Box::pin(self.with_lines(&[SMALL, LARGE], async |bench, lines| {
            let megabytes = if bench.full { FULL_MB } else { LARGE_MB };
            lines.fill(SMALL, SMALL_MB).await?;
            lines.fill(LARGE, megabytes).await?;
            let mut small = lines.runner(SMALL, false).await?;
            let mut large = lines.runner(LARGE, false).await?;
            let jobs = [&mut small, &mut large];
            let measured = bench.parents(lines, jobs, megabytes).await;
            small.runner.discard().await?;
            large.runner.discard().await?;
            measured
        }))
        .await
    }

    async fn parents(
        &mut self,
        lines: &Lines<'_>,
        [small, large]: [&mut Hook; 2],
        megabytes: u32,
    ) -> anyhow::Result<()> {
        let mut floor: Floor = lines.floor(SMALL, small).await?;
        // It warms caches too.
        large.prepare_job(&[]).await?;
        lines.end(large).await?;
        let (mut floors, mut smalls, mut larges) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.runs * PER_RUN {
            floors.push(floor.measure(None).await?.start);
            smalls.push(small.prepare_job(&[]).await?.wall_ms);
            lines.end(small).await?;
            larges.push(large.prepare_job(&[]).await?.wall_ms);
            lines.end(large).await?;
        }
        let rows = [
            (SMALL_MB, "bare clone", floors.clone(), smalls.clone()),
            (megabytes, "bare clone", floors, larges.clone()),
            (megabytes, "of 10 MB", smalls, larges),
        ];
        for (megabytes, beside, floor, ours) in rows {
            let what = format!("prepare, clone of {megabytes} MB ({beside})");
            let row = Row::over(what, "ms", floor, ours).judged(Judged::Ratio);
            self.tell(row.within(RATIO));
        }
        Ok(())
    }
}
