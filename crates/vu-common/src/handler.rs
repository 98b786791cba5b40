// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The messages of the front end, as the `vhost` crate parses them (vhost-user "Front-end message types").
//!
//! An error from here is answered with a nack and the connection goes on; see `connection` for when not.

use std::fs::File;
use std::io;

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    Error, GpuBackend, Result, VhostUserBackendReqHandlerMut, VhostUserProtocolFeatures,
};

use crate::device::Device;
use crate::inflight::InflightRegion;
use crate::memory::{MAX_REGIONS, Mapping, Memory, RegionInfo};
use crate::session::{F_EVENT_IDX, F_INDIRECT_DESC, F_LOG_ALL, F_PROTOCOL_FEATURES, Session};
use crate::state::{Direction, Transfer};

/// Largest ring of a split virtqueue (virtio 1.3, section 2.7).
const MAX_QUEUE_SIZE: u32 = 32768;

fn refuse(text: String) -> Error {
    Error::ReqHandlerError(io::Error::other(text))
}

fn info(region: &VhostUserMemoryRegion) -> RegionInfo {
    RegionInfo {
        guest_addr: region.guest_phys_addr,
        size: region.memory_size,
        user_addr: region.user_addr,
        mmap_offset: region.mmap_offset,
    }
}

impl<D: Device> Session<D> {
    fn index(&self, index: u32) -> Result<usize> {
        let queues = self.queues.len();
        usize::try_from(index)
            .ok()
            .filter(|q| *q < queues)
            .ok_or_else(|| refuse(format!("queue {index} does not exist: this device has {queues}")))
    }
}

impl<D: Device> VhostUserBackendReqHandlerMut for Session<D> {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset();
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        self.reset();
        self.device.reset();
        log::debug!("{}: reset", self.spec.name);
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let excess = features & !self.accepted();
        if excess != 0 {
            return Err(refuse(format!("feature bits {excess:#x} were not offered")));
        }
        let changed = (features ^ self.features) & !F_LOG_ALL;
        if changed != 0 {
            if self.any_running() {
                return Err(refuse(format!(
                    "feature bits {changed:#x} change while a queue runs"
                )));
            }
            self.drop_threads();
        }
        self.features = features;
        self.log.set_on(features & F_LOG_ALL != 0);
        for queue in &self.queues {
            if changed != 0 {
                queue.set_features(features & F_EVENT_IDX != 0, features & F_INDIRECT_DESC != 0);
            }
            if features & F_PROTOCOL_FEATURES == 0 {
                queue.set_enabled(true);
            }
        }
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(self.offered_protocol())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        // QEMU sets every bit that it knows, offered or not: what was not offered stays off.
        self.protocol = VhostUserProtocolFeatures::from_bits_truncate(features) & self.offered_protocol();
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.queues.len() as u64)
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        let mut memory = Memory::default();
        for (region, file) in regions.iter().zip(files) {
            memory = memory
                .with(info(region), file)
                .map_err(|e| refuse(e.to_string()))?;
        }
        self.set_memory(memory);
        Ok(None)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<u64>> {
        let memory = self
            .memory
            .with(info(region), file)
            .map_err(|e| refuse(e.to_string()))?;
        self.set_memory(memory);
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let gone = info(region);
        let memory = self
            .memory
            .without(gone.guest_addr, gone.size)
            .map_err(|e| refuse(e.to_string()))?;
        self.set_memory(memory);
        Ok(())
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let q = self.index(index)?;
        let max = MAX_QUEUE_SIZE.min(self.spec.max_queue_size.into());
        if !num.is_power_of_two() || num > max {
            return Err(refuse(format!(
                "queue {q}: a ring of {num} entries: not a power of two up to {max}"
            )));
        }
        let set = self.queues.get(q).is_some_and(|queue| queue.set_size(num as u16));
        set.then_some(())
            .ok_or_else(|| refuse(format!("queue {q} runs: its size cannot change")))
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let q = self.index(index)?;
        let guest = |user: u64| {
            let unknown = || refuse(format!("queue {q}: {user:#x} is in no memory region"));
            self.memory.guest_addr(user).ok_or_else(unknown)
        };
        let (desc, avail, used) = (guest(descriptor)?, guest(available)?, guest(used)?);
        let set = self
            .queues
            .get(q)
            .is_some_and(|queue| queue.set_addr(desc, avail, used));
        set.then_some(())
            .ok_or_else(|| refuse(format!("queue {q} runs: it cannot move")))
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let q = self.index(index)?;
        let set = self
            .queues
            .get(q)
            .is_some_and(|queue| queue.set_base(base as u16));
        set.then_some(())
            .ok_or_else(|| refuse(format!("queue {q} runs: its base cannot change")))
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let q = self.index(index)?;
        let base = self.stop_queue(q).unwrap_or(0);
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let q = self.index(index.into())?;
        let Some(queue) = self.queues.get(q).cloned() else {
            return Ok(());
        };
        self.unwatch_kick(q);
        let running = queue.is_running();
        queue.set_kick(file);
        if running && let Err(fault) = self.watch_kick(q) {
            queue.retire(fault);
        }
        self.refresh(q);
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let q = self.index(index.into())?;
        if let Some(queue) = self.queues.get(q) {
            queue.set_call(file);
        }
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let q = self.index(index.into())?;
        if let Some(queue) = self.queues.get(q) {
            queue.set_error(file);
        }
        Ok(())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let q = self.index(index)?;
        if let Some(queue) = self.queues.get(q) {
            queue.set_enabled(enable);
        }
        self.refresh(q);
        Ok(())
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        // The `vhost` crate has bounded both to 4 KiB; what lies beyond the device's space reads as zero.
        let mut config = vec![0; size as usize];
        let offset = offset as usize;
        let len = self.spec.config_len.saturating_sub(offset).min(config.len());
        if let Some(inside) = config.get_mut(..len).filter(|inside| !inside.is_empty()) {
            self.device.read_config(offset, inside);
        }
        Ok(config)
    }

    fn set_config(&mut self, offset: u32, data: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        let (offset, len) = (offset as usize, data.len());
        if offset.saturating_add(len) > self.spec.config_len {
            return Err(refuse(format!(
                "a write of {len} bytes at {offset}, beyond the configuration space"
            )));
        }
        let refused = |e| refuse(format!("write of {len} bytes at {offset}: {e}"));
        self.device.write_config(offset, data).map_err(refused)
    }

    fn get_inflight_fd(&mut self, asked: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let (queues, size) = (asked.num_queues, asked.queue_size);
        if queues == 0
            || usize::from(queues) > self.queues.len()
            || size == 0
            || u32::from(size) > MAX_QUEUE_SIZE
        {
            return Err(refuse(format!(
                "an in-flight region for {queues} queues of {size} entries"
            )));
        }
        let (region, file, len) = InflightRegion::create(queues, size).map_err(Error::ReqHandlerError)?;
        self.inflight = Some(region.into());
        Ok((VhostUserInflight::new(len, 0, queues, size), file))
    }

    fn set_inflight_fd(&mut self, inflight: &VhostUserInflight, file: File) -> Result<()> {
        if self.any_running() {
            return Err(refuse(
                "the in-flight region cannot change while a queue runs".into(),
            ));
        }
        let VhostUserInflight {
            mmap_size,
            mmap_offset,
            num_queues,
            queue_size,
        } = *inflight;
        let region = InflightRegion::open(&file, mmap_offset, mmap_size, num_queues, queue_size)
            .map_err(Error::ReqHandlerError)?;
        self.inflight = Some(region.into());
        Ok(())
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> Result<()> {
        let size = usize::try_from(log.mmap_size).map_err(|e| refuse(format!("dirty log: {e}")))?;
        let map = Mapping::new(&file, log.mmap_offset, size).map_err(Error::ReqHandlerError)?;
        self.log.set_map(map);
        Ok(())
    }

    fn set_device_state_fd(
        &mut self,
        direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        file: File,
    ) -> Result<Option<File>> {
        if !self.protocol.contains(VhostUserProtocolFeatures::DEVICE_STATE) || self.any_running() {
            return Err(refuse("the device state cannot move now".into()));
        }
        let direction = match direction {
            VhostTransferStateDirection::SAVE => Direction::Save,
            VhostTransferStateDirection::LOAD => Direction::Load,
        };
        let transfer =
            Transfer::start(direction, self.device.clone(), file).map_err(Error::ReqHandlerError)?;
        self.transfer = Some(transfer);
        Ok(None)
    }

    fn check_device_state(&mut self) -> Result<()> {
        let transfer = self
            .transfer
            .take()
            .ok_or_else(|| refuse("no device state was moved".into()))?;
        transfer.finish().map_err(Error::ReqHandlerError)
    }

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Result<()> {
        Err(refuse("this device has no display".into()))
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(refuse("this device shares no objects".into()))
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(refuse("this device has no shared memory regions".into()))
    }
}
