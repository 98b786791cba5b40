// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system calls that are left: a list, with conditions on arguments. All others fail with `EPERM`.
//!
//! They fail rather than kill, so that a C library that tries something new and can do without stays alive.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::needs::{Access, Needs};

/// What every daemon may do, with any arguments.
const CALLS: &[i64] = &[
    // Descriptors that are open, and new ones that lead nowhere.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_ftruncate,
    libc::SYS_eventfd2,
    libc::SYS_memfd_create,
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    // Sockets that are open.
    libc::SYS_accept4,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads.
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_getrusage,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Time and random numbers.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    // What the vDSO falls back to.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
    libc::SYS_gettimeofday,
    libc::SYS_getcpu,
];

/// What a daemon may do that removes a file at its end; Landlock says where.
const REMOVE: &[i64] = &[
    libc::SYS_unlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
];

/// What a daemon may do that opens files; Landlock says which.
const OPEN: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_getdents64,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
];

/// Non-blocking descriptors, and whether the log is a terminal.
const IOCTLS: &[u64] = &[libc::FIONBIO, libc::FIONREAD, libc::TCGETS];

const THREAD: u64 = libc::CLONE_THREAD as u64;

type Result<T> = std::result::Result<T, seccompiler::Error>;

/// The filter as rules: for each system call the alternatives, of which none means any arguments.
#[derive(Default)]
struct Rules(BTreeMap<i64, Vec<SeccompRule>>);

impl Rules {
    fn any(&mut self, calls: &[i64]) {
        self.0.extend(calls.iter().map(|&call| (call, Vec::new())));
    }

    /// Allows `call` if argument `index` (32 bits of it) is such, too.
    fn only(&mut self, call: i64, index: u8, op: Op, value: u64) -> Result<()> {
        let condition = SeccompCondition::new(index, Len::Dword, op, value)?;
        let alternatives = self.0.entry(call).or_default();
        alternatives.push(SeccompRule::new(vec![condition])?);
        Ok(())
    }

    fn of(needs: &Needs) -> Result<Self> {
        let mut rules = Self::default();
        for call in [libc::SYS_mmap, libc::SYS_mprotect] {
            let exec = libc::PROT_EXEC as u64;
            rules.only(call, 2, Op::MaskedEq(exec), 0)?;
        }
        rules.only(libc::SYS_clone, 0, Op::MaskedEq(THREAD), THREAD)?;
        // abort(3) sends itself a signal.
        rules.only(libc::SYS_tgkill, 0, Op::Eq, std::process::id().into())?;
        rules.only(libc::SYS_prctl, 0, Op::Eq, libc::PR_SET_NAME as u64)?;
        for &request in IOCTLS.iter().chain(&needs.ioctls) {
            rules.only(libc::SYS_ioctl, 1, Op::Eq, request & u64::from(u32::MAX))?;
        }
        for &letter in &needs.ioctl_types {
            rules.only(libc::SYS_ioctl, 1, Op::MaskedEq(0xff00), u64::from(letter) << 8)?;
        }
        for &family in &needs.socket_families {
            rules.only(libc::SYS_socket, 0, Op::Eq, family as u64)?;
            rules.any(&[libc::SYS_connect]);
        }
        // The stack of a thread is measured with it.
        let limits = SeccompCondition::new(2, Len::Qword, Op::Eq, 0)?;
        rules
            .0
            .insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![limits])?]);
        for (_, access) in &needs.paths {
            match access {
                Access::Connect => {}
                Access::Remove => rules.any(REMOVE),
                Access::Read | Access::ReadWrite => rules.any(OPEN),
            }
        }
        rules.any(CALLS);
        rules.any(&needs.system_calls);
        Ok(rules)
    }
}

/// Leaves this process, all its threads and all that they start only what is on the list; returns its length.
pub(super) fn restrict(needs: &Needs) -> Result<usize> {
    let arch = std::env::consts::ARCH.try_into()?;
    // The flags of clone3(2) are in memory, out of a filter's sight: without it, C libraries take clone(2).
    let no_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    let no_clone3 = SeccompFilter::new(no_clone3, SeccompAction::Allow, absent, arch)?;
    let rules = Rules::of(needs)?;
    let len = rules.0.len();
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    let list = SeccompFilter::new(rules.0, denied, SeccompAction::Allow, arch)?;
    for filter in [no_clone3, list] {
        let program: BpfProgram = filter.try_into()?;
        seccompiler::apply_filter_all_threads(&program)?;
    }
    Ok(len)
}
