//! A container action whose program its image chooses, in a pod that shares no volume.
//!
//! No supervisor can run in its container. Two containers of ours lie around it: an init container
//! into which the files come before it starts, and one beside it from which they are taken back.

use anyhow::Context as _;

use super::api::Ended;
use super::remote::Remote;
use super::run_container_step::Action;
use super::step_files::Returned;
use super::transfer::{SHARED, Transfer};
use crate::pod::{FILES_CONTAINER, GATE_CONTAINER};
use crate::record::{ForcedUser, JobRecord};
use crate::spool::signals::Signals;

impl Action<'_> {
    /// Runs it, and returns its exit code.
    pub(super) fn surrounded(
        &self,
        job: Option<&JobRecord>,
        signals: &Signals,
    ) -> anyhow::Result<u8> {
        let (api, config) = (self.api, self.config);
        let started = api.run_unless_signalled(signals, async {
            self.create().await?;
            self.started(GATE_CONTAINER).await
        });
        match started {
            Ended::Signal(signal) => return Ok(128 + signal),
            Ended::Done(started) => started?,
        }
        let remote = |container| Remote {
            container,
            ..Remote::of_action(
                api,
                config,
                self.memory,
                (&self.plan.name, self.nonce),
                job.is_some(),
            )
        };
        let (gate, files) = (remote(GATE_CONTAINER), remote(FILES_CONTAINER));
        let jobs = job.map(|job| Remote::of_job(api, config, self.memory, job));
        let cancelled = || Ok(128 + signals.received().unwrap_or_default());
        if let Some(jobs) = &jobs {
            let there = Transfer {
                from: jobs,
                to: &gate,
                roots: &SHARED,
                since: None,
                noted: Some(self.nonce),
                most: None,
            };
            if !there.run(signals)? {
                return cancelled();
            }
        }
        let returned = Returned::begin(config, self.memory.directory(), self.nonce)?;
        let mut given = returned.sent();
        given.extend(gate.event());
        if !gate.open_gate(&given, signals)? {
            return cancelled();
        }
        let collect = || {
            // What it said until a signal came is brought all the same.
            let (unheard, _silent) = Signals::raised_by_hand().context("make a signal")?;
            files.refresh(&returned, &unheard)?;
            if let Some(jobs) = &jobs {
                let back = Transfer {
                    from: &files,
                    to: jobs,
                    roots: &SHARED,
                    since: Some(self.nonce),
                    noted: None,
                    most: None,
                };
                if back.run(signals)? {
                    self.refresh(jobs, signals)?;
                }
            }
            returned.hand_over()
        };
        let forced_user = job.and_then(|job| job.forced_user);
        // Nobody has looked into its image, so a missing name is no cause to be told.
        let forced_user = forced_user.map(|user| ForcedUser {
            named: true,
            ..user
        });
        self.follow_program(std::future::ready(Ok(())), collect, forced_user, signals)
    }
}
