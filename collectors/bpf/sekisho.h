/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs and the reader share. collectors/bpf/layout.py says the same in numpy and checks the sizes at load.
 * The headers of Linux's user API alone are used (no vmlinux.h), so one object file fits every kernel.
 */
#ifndef SEKISHO_H
#define SEKISHO_H
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define LAYOUT 1 /* raise it when a struct of this file changes: pinned maps of another layout are not read */

enum source { NOBODY, MADE, CONNECTED, SENT, FOUND };
enum role { UNKNOWN, INITIATED, ACCEPTED };

/* Who a socket belongs to. A socket that is accepted gets a copy of its listener's. */
struct owner {
	__u64 origin;  /* cookie of the socket this was written for: a child's differs from its own */
	__u64 cgroup;
	__u64 since_ns; /* CLOCK_BOOTTIME: a process that started later is another one with the same id */
	__u64 netns;   /* cookie of the network namespace, 0 unknown */
	__u32 tgid, uid;
	__u8 source, role, zero[6];
	char comm[16];
};

/* Addresses are 16 octets, IPv4 v4-mapped. No holes. */
struct key {
	__u64 cookie;
	__u32 local[4], remote[4];
	__be16 local_port, remote_port;
	__u8 protocol, zero[3];
};

/* Sums of one epoch. FIRST_* say which way the first packet went; OWN_* hold where the socket itself says it is. */
enum bits { FIRST_OUT = 1, CONNECTED_SOCKET = 2, NO_SOCKET = 4 };
#define PURE_SYN 0x100

struct value {
	__u64 octets_out, octets_in, packets_out, packets_in, content_out;
	__u64 first_ns, last_ns; /* CLOCK_BOOTTIME */
	__u64 origin, cgroup, since_ns, netns;
	__u32 tgid, uid, ifindex;
	__u32 own[4];
	__u16 own_port; /* host order */
	__u16 flags_out, flags_in; /* OR of TCP flags, and PURE_SYN */
	__u8 source, role, bits, zero[3];
	char comm[16];
};

/* Per CPU, never cleared. octets_* count everything; over_* what had no room in the map. */
struct totals {
	__u64 octets_out, octets_in;
	__u64 over_octets_out, over_octets_in, over_packets_out, over_packets_in, over_content_out;
	__u64 inserts, unread; /* rows made; packets whose header could not be read (counted in octets_* all the same) */
};

struct sekisho_owners_map {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct owner);
};
#endif
