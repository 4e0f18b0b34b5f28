//! What a main process asks of a shim.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::pod::Pod;
use super::server::{Caller, Shim};
use crate::config::{MAX_CONTAINERS, Resources, TerminalSize};
use crate::error::{Error, Result};
use crate::init;
use crate::state;
use crate::wire::{PodDescription, PodPlan, Request, Response};

/// An answer, or none yet.
type Answer = Result<Option<Response>>;

impl Shim {
    /// Handles one request; the answer may come later, when a process has started.
    pub(super) fn request(&mut self, dir: &Path, caller: Caller, request: Request, fds: Vec<OwnedFd>) {
        match self.answer(dir, caller, request, fds) {
            Ok(Some(response)) => self.reply(caller, Ok(response), Vec::new()),
            Ok(None) => {}
            Err(error) => self.reply(caller, Err(error), Vec::new()),
        }
    }

    fn answer(&mut self, dir: &Path, caller: Caller, request: Request, fds: Vec<OwnedFd>) -> Answer {
        let done = |()| Some(Response::Done);
        match request {
            Request::Fork { .. } => Err(Error::Invalid("a shim does not fork shims".to_owned())),
            Request::CreatePod(plan) => self.create_pod(dir, *plan).map(Some),
            Request::Describe => self.describe().map(Some),
            Request::ContainerStatus { id } => {
                Ok(Some(Response::Container(Box::new(self.container(&id)?.status.clone()))))
            }
            Request::CreateContainer { config, privileges, streams } => {
                self.create_container(*config, privileges, streams.then_some(fds)).map(done)
            }
            Request::StartContainer { id } => self.start_container(caller, &id).map(|()| None),
            Request::SignalContainer { id, signal, all } => self.signal_container(&id, signal, all).map(done),
            Request::UpdateContainer { id, resources } => self.update_container(&id, &resources).map(done),
            Request::ResizeContainer { id, size } => self.resize_container(&id, size).map(done),
            Request::RemoveContainer { id } => self.remove_container(&id).map(done),
            Request::ReopenLog { id } => self.reopen_log(&id).map(done),
            Request::Exec { exec, config, privileges } => {
                self.start_exec(caller, exec, *config, privileges, fds).map(|()| None)
            }
            Request::ResizeExec { exec, size } => self.resize_exec(exec, size).map(done),
            Request::SignalExec { exec, signal } => self.signal_exec(exec, signal).map(done),
            Request::Attach { container, stdin, stdout, stderr } => {
                self.attach(&container, [stdin, stdout, stderr], fds).map(done)
            }
            Request::StopPod => self.stop_pod().map(done),
            Request::RemovePod => self.remove_pod().map(done),
        }
    }

    fn create_pod(&mut self, dir: &Path, plan: PodPlan) -> Result<Response> {
        if let Some(pod) = &self.pod {
            let id = pod.plan.config.id.clone();
            return Err(Error::AlreadyExists { kind: "pod sandbox".to_owned(), id });
        }
        self.pod = Some(Pod::create(plan)?);
        let description = match self.listen(dir).and_then(|()| self.description()) {
            Ok(description) => description,
            Err(error) => {
                if let Some(mut pod) = self.pod.take() {
                    let _ = pod.destroy();
                }
                return Err(error);
            }
        };
        state::write_pod(&description)?;
        Ok(Response::Pod(Box::new(description)))
    }

    fn description(&self) -> Result<PodDescription> {
        let pid = std::process::id();
        let pid_start = state::process_start(pid).unwrap_or(0);
        let containers = self.containers.values().map(|container| container.status.clone()).collect();
        Ok(PodDescription { plan: self.pod()?.plan.clone(), pid, pid_start, containers })
    }

    fn describe(&self) -> Result<Response> {
        Ok(Response::Pod(Box::new(self.description()?)))
    }

    pub(super) fn check_room(&self, id: &str) -> Result<()> {
        if self.containers.contains_key(id) {
            return Err(Error::AlreadyExists { kind: "container".to_owned(), id: id.to_owned() });
        }
        if self.containers.len() >= MAX_CONTAINERS {
            return Err(Error::Limit(format!(
                "the pod already has {MAX_CONTAINERS} containers (hint: remove ended ones)"
            )));
        }
        Ok(())
    }

    fn signal_container(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        let container = self.container(id)?;
        let Some(pid) = container.pid else { return Ok(()) };
        if !(0..=libc::SIGRTMAX()).contains(&signal) {
            return Err(Error::Invalid(format!("signal {signal} does not exist")));
        }
        if all {
            if signal != libc::SIGKILL || !container.cgroup.kill_at_once() {
                container.cgroup.signal(signal);
            }
            return Ok(());
        }
        // SAFETY: an unreaped child of ours: its id cannot be somebody else's.
        match unsafe { libc::kill(pid, signal) } {
            0 => Ok(()),
            _ => Err(Error::last_os(format!("send signal {signal} to container {id:?}"))),
        }
    }

    fn update_container(&mut self, id: &str, resources: &Resources) -> Result<()> {
        self.container(id)?.cgroup.apply(resources)
    }

    fn resize_container(&mut self, id: &str, size: TerminalSize) -> Result<()> {
        match &self.container(id)?.terminal {
            Some(terminal) => init::set_size(terminal, size),
            None => Ok(()),
        }
    }

    fn reopen_log(&mut self, id: &str) -> Result<()> {
        match &mut self.container_mut(id)?.log {
            Some(log) => log.reopen(),
            None => Ok(()),
        }
    }

    fn stop_pod(&mut self) -> Result<()> {
        let cgroup = self.pod()?.plan.cgroup.clone();
        self.kill_cgroup(&cgroup)
    }

    fn remove_pod(&mut self) -> Result<()> {
        if let Ok(cgroup) = self.pod().map(|pod| pod.plan.cgroup.clone()) {
            self.kill_cgroup(&cgroup)?;
        }
        // By name, which spares looking for what is in the pod's cgroup.
        for container in self.containers.values() {
            container.cgroup.remove()?;
        }
        if let Some(pod) = &mut self.pod {
            pod.destroy()?;
        }
        self.ending = true;
        Ok(())
    }
}
