// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Counts every packet that a socket below a control group sends or receives, by socket and ends, and remembers whose
// socket it is. Every hook returns 1 ("go on") whatever happens: traffic is never stopped or delayed by it.
#include <linux/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include "sekisho.h"

#ifndef MAX_FLOWS
#define MAX_FLOWS 131072
#endif
#define ETH_IPV4 0x0800
#define ETH_IPV6 0x86dd
#define MOST_EXTENSIONS 6

struct flows {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_FLOWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct key);
	__type(value, struct value);
};
struct flows sekisho_flows_a SEC(".maps");
struct flows sekisho_flows_b SEC(".maps");

// The map that is counted into. The reader puts the other one here and then reads the first at leisure: the exchange
// returns only once no program runs with the old one any more, so nothing is counted twice or lost.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct flows);
} sekisho_active SEC(".maps") = { .values = { [0] = &sekisho_flows_a } };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct totals);
} sekisho_totals SEC(".maps");

#ifndef SEKISHO_TC
struct sekisho_owners_map sekisho_owners SEC(".maps");
#endif

// The reader's own notes, pinned with the maps: layout.NOTES.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__uint(value_size, 256);
} sekisho_notes SEC(".maps");

struct packet {
	struct key key;
	__u32 header; /* octets of IP and transport headers */
	__u32 extra;  /* octets that segmentation takes away again (jumbo option) */
#ifdef SEKISHO_TC
	__u32 total; /* length of the packet as its IP header says, 0 unknown: frames may be padded */
#endif
	__u16 flags;
};

static __always_inline void ports(struct packet *p, bool out, __be16 source, __be16 target)
{
	p->key.local_port = out ? source : target;
	p->key.remote_port = out ? target : source;
}

static __always_inline void tcp_flags(struct packet *p, __u8 flags)
{
	p->flags = flags;
	if ((flags & 0x12) == 0x02)
		p->flags |= PURE_SYN;
}

static __always_inline void v4_ends(struct packet *p, bool out, __u32 source, __u32 target)
{
	p->key.local[2] = p->key.remote[2] = bpf_htonl(0xffff);
	p->key.local[3] = out ? source : target;
	p->key.remote[3] = out ? target : source;
}

static __always_inline void says_length(struct packet *p, __u32 head, __be16 rest)
{
#ifdef SEKISHO_TC
	p->total = rest ? head + bpf_ntohs(rest) : 0;
#endif
}

// Headers that lie in one piece: the common packet, without a helper call. The IP header begins after `head` octets.
static __always_inline int parse_fast(struct __sk_buff *skb, struct packet *p, bool out, __u32 head, __be16 type)
{
	__u8 *d = (void *)(long)skb->data + head, *end = (void *)(long)skb->data_end, *l4;

	if (type == bpf_htons(ETH_IPV4)) {
		if (d + 40 > end || d[0] != 0x45 || ((d[6] & 0x3f) | d[7]))
			return 1;
		v4_ends(p, out, *(__u32 *)(d + 12), *(__u32 *)(d + 16));
		p->key.protocol = d[9];
		p->header = 20;
		says_length(p, 0, *(__be16 *)(d + 2));
		l4 = d + 20;
	} else if (type == bpf_htons(ETH_IPV6)) {
		if (d + 60 > end)
			return 1;
		__builtin_memcpy(out ? p->key.local : p->key.remote, d + 8, 16);
		__builtin_memcpy(out ? p->key.remote : p->key.local, d + 24, 16);
		p->key.protocol = d[6];
		p->header = 40;
		says_length(p, 40, *(__be16 *)(d + 4));
		l4 = d + 40;
	} else
		return 1;
	if (p->key.protocol == IPPROTO_TCP) {
		if (l4 + 20 > end)
			return 1;
		p->header += (l4[12] >> 4) * 4;
		tcp_flags(p, l4[13]);
	} else if (p->key.protocol == IPPROTO_UDP)
		p->header += 8;
	else
		return 1;
	ports(p, out, *(__be16 *)l4, *(__be16 *)(l4 + 2));
	return 0;
}

// Any other packet. What cannot be read further keeps what was read: ends without ports.
static __always_inline int parse(struct __sk_buff *skb, struct packet *p, bool out, __u32 head, __be16 type)
{
	__u8 b[40];
	__be16 both[2];
	__u32 off;

	__builtin_memset(p, 0, sizeof(*p));
	if (type == bpf_htons(ETH_IPV4)) {
		if (bpf_skb_load_bytes(skb, head, b, 20))
			return -1;
		v4_ends(p, out, *(__u32 *)(b + 12), *(__u32 *)(b + 16));
		p->key.protocol = b[9];
		p->header = off = (b[0] & 0x0f) * 4;
		says_length(p, 0, *(__be16 *)(b + 2));
		if ((b[6] & 0x1f) | b[7])
			return 0; /* a later fragment has no ports */
	} else if (type == bpf_htons(ETH_IPV6)) {
		if (bpf_skb_load_bytes(skb, head, b, 40))
			return -1;
		__builtin_memcpy(out ? p->key.local : p->key.remote, b + 8, 16);
		__builtin_memcpy(out ? p->key.remote : p->key.local, b + 24, 16);
		__u8 next = b[6];
		says_length(p, 40, *(__be16 *)(b + 4));
		off = 40;
#pragma unroll
		for (int i = 0; i < MOST_EXTENSIONS; i++) {
			__u8 e[8];

			/* hop-by-hop, routing, fragment, authentication, destination options (RFC 8200, RFC 4302) */
			if (next != 0 && next != 43 && next != 44 && next != 51 && next != 60)
				break;
			if (bpf_skb_load_bytes(skb, head + off, e, 8))
				break;
			p->key.protocol = e[0];
			if (next == 44) {
				off += 8;
				p->header = off;
				if (((e[2] << 8) | e[3]) & 0xfff8)
					return 0;
			} else if (next == 51)
				off += (e[1] + 2) * 4;
			else {
				/* The kernel puts a jumbo option into large frames and takes it out when it cuts them. */
				if (next == 0 && e[1] == 0 && e[2] == 0xc2 && skb->gso_size)
					p->extra = 8;
				off += (e[1] + 1) * 8;
			}
			next = e[0];
		}
		p->key.protocol = next;
		p->header = off;
	} else
		return -1;
	if (p->key.protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, head + off, b, 14))
			return 0;
		__builtin_memcpy(both, b, 4);
		p->header += (b[12] >> 4) * 4;
		tcp_flags(p, b[13]);
	} else if (p->key.protocol == IPPROTO_UDP || p->key.protocol == IPPROTO_SCTP ||
		   p->key.protocol == IPPROTO_UDPLITE || p->key.protocol == IPPROTO_DCCP) {
		if (bpf_skb_load_bytes(skb, head + off, both, 4))
			return 0;
		p->header += p->key.protocol == IPPROTO_SCTP || p->key.protocol == IPPROTO_DCCP ? 12 : 8;
	} else
		return 0;
	ports(p, out, both[0], both[1]);
	return 0;
}

#ifndef SEKISHO_TC
// Whose socket it is, and where the socket itself says it is: after address translation the packet says otherwise.
static __always_inline void describe(struct __sk_buff *skb, const struct key *k, struct value *v)
{
	struct bpf_sock *sk = skb->sk;
	struct owner *owner;

	v->origin = k->cookie;
	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (!sk) {
		v->bits |= NO_SOCKET;
		return;
	}
	v->own_port = sk->src_port;
	if (k->local[0] | k->local[1] | (k->local[2] ^ bpf_htonl(0xffff))) {
		v->own[0] = sk->src_ip6[0];
		v->own[1] = sk->src_ip6[1];
		v->own[2] = sk->src_ip6[2];
		v->own[3] = sk->src_ip6[3];
		if (sk->dst_ip6[0] | sk->dst_ip6[1] | sk->dst_ip6[2] | sk->dst_ip6[3])
			v->bits |= CONNECTED_SOCKET;
	} else {
		v->own[2] = bpf_htonl(0xffff);
		v->own[3] = sk->src_ip4;
		if (sk->dst_ip4)
			v->bits |= CONNECTED_SOCKET;
	}
	owner = bpf_sk_storage_get(&sekisho_owners, sk, 0, 0);
	if (owner) {
		v->origin = owner->origin;
		v->since_ns = owner->since_ns;
		v->netns = owner->netns;
		v->tgid = owner->tgid;
		v->uid = owner->uid;
		v->source = owner->source;
		/* The child of a listener has a copy of its listener's. */
		v->role = k->protocol == IPPROTO_TCP && owner->origin != k->cookie ? ACCEPTED : owner->role;
		v->cgroup = owner->cgroup;
		__builtin_memcpy(v->comm, owner->comm, sizeof(v->comm));
	}
	if (!v->cgroup)
		v->cgroup = bpf_sk_cgroup_id(sk);
}

#endif

static __always_inline void overflow(struct totals *t, bool out, __u64 octets, __u64 packets, __u64 content)
{
	__sync_fetch_and_add(out ? &t->over_octets_out : &t->over_octets_in, octets);
	__sync_fetch_and_add(out ? &t->over_packets_out : &t->over_packets_in, packets);
	if (out)
		__sync_fetch_and_add(&t->over_content_out, content);
}

// Additions are atomic even per CPU: a packet that comes in may interrupt one that goes out on the same CPU.
static __always_inline void count(struct __sk_buff *skb, bool out, __u32 head, __be16 type)
{
	struct packet p = {};
	__u32 zero = 0, length = skb->len - head;
	struct totals *t = bpf_map_lookup_elem(&sekisho_totals, &zero);
	struct value *v;
	__u64 now, octets, content, packets = 1;
	void *flows;

	if (!t)
		return;
	if (parse_fast(skb, &p, out, head, type) && parse(skb, &p, out, head, type)) {
		__sync_fetch_and_add(&t->unread, 1);
		__sync_fetch_and_add(out ? &t->octets_out : &t->octets_in, length);
		overflow(t, out, length, 1, 0);
		return;
	}
#ifdef SEKISHO_TC
	if (!skb->gso_size && p.total && p.total < length)
		length = p.total;
#endif
	content = length > p.header ? length - p.header : 0;
	length -= p.extra;
	p.header -= p.extra;
	if (skb->gso_segs)
		packets = skb->gso_segs;
	else if (skb->gso_size)
		packets = (content + skb->gso_size - 1) / skb->gso_size;
	octets = length + (packets - 1) * p.header;
#ifdef SEKISHO_TC
	p.key.cookie = skb->ifindex;
#else
	p.key.cookie = bpf_get_socket_cookie(skb);
#endif
	now = bpf_ktime_get_boot_ns();
	__sync_fetch_and_add(out ? &t->octets_out : &t->octets_in, octets);
	flows = bpf_map_lookup_elem(&sekisho_active, &zero);
	if (!flows) {
		overflow(t, out, octets, packets, content);
		return;
	}
	/* The first packet of a connection has no row yet, most probably. */
	v = p.flags & PURE_SYN ? NULL : bpf_map_lookup_elem(flows, &p.key);
	if (!v) {
		struct value fresh = { .first_ns = now, .last_ns = now, .ifindex = skb->ifindex };

		if (out) {
			fresh.octets_out = octets;
			fresh.packets_out = packets;
			fresh.content_out = content;
			fresh.flags_out = p.flags;
			fresh.bits = FIRST_OUT;
		} else {
			fresh.octets_in = octets;
			fresh.packets_in = packets;
			fresh.flags_in = p.flags;
		}
#ifndef SEKISHO_TC
		describe(skb, &p.key, &fresh);
#endif
		if (!bpf_map_update_elem(flows, &p.key, &fresh, BPF_NOEXIST)) {
			__sync_fetch_and_add(&t->inserts, 1);
			return;
		}
		v = bpf_map_lookup_elem(flows, &p.key); /* there already, or no room */
		if (!v) {
			overflow(t, out, octets, packets, content);
			return;
		}
	}
	if (out) {
		__sync_fetch_and_add(&v->octets_out, octets);
		__sync_fetch_and_add(&v->packets_out, packets);
		__sync_fetch_and_add(&v->content_out, content);
		if ((v->flags_out & p.flags) != p.flags)
			v->flags_out |= p.flags;
	} else {
		__sync_fetch_and_add(&v->octets_in, octets);
		__sync_fetch_and_add(&v->packets_in, packets);
		if ((v->flags_in & p.flags) != p.flags)
			v->flags_in |= p.flags;
	}
	v->last_ns = now;
}

#ifndef SEKISHO_TC
SEC("cgroup_skb/egress")
int sekisho_egress(struct __sk_buff *skb)
{
	count(skb, true, 0, skb->protocol);
	return 1;
}

SEC("cgroup_skb/ingress")
int sekisho_ingress(struct __sk_buff *skb)
{
	count(skb, false, 0, skb->protocol);
	return 1;
}

static __always_inline void stamp(struct owner *owner, __u8 source)
{
	owner->tgid = bpf_get_current_pid_tgid() >> 32;
	owner->uid = (__u32)bpf_get_current_uid_gid();
	owner->since_ns = bpf_ktime_get_boot_ns();
	owner->source = source;
	bpf_get_current_comm(owner->comm, sizeof(owner->comm));
}

SEC("cgroup/sock_create")
int sekisho_create(struct bpf_sock *sk)
{
	struct owner *owner = bpf_sk_storage_get(&sekisho_owners, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (owner) {
		stamp(owner, MADE);
		owner->origin = bpf_get_socket_cookie(sk);
		owner->netns = bpf_get_netns_cookie(sk);
		owner->cgroup = bpf_get_current_cgroup_id();
	}
	return 1;
}

// The socket may have been handed to another process since it was made: who connects or sends is its owner now.
static __always_inline void used(struct bpf_sock_addr *ctx, __u8 source)
{
	struct bpf_sock *sk = ctx->sk;
	struct owner *owner;

	if (!sk)
		return;
	owner = bpf_sk_storage_get(&sekisho_owners, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!owner)
		return;
	if (owner->tgid != bpf_get_current_pid_tgid() >> 32)
		stamp(owner, source);
	if (!owner->origin || source == CONNECTED)
		owner->origin = bpf_get_socket_cookie(ctx);
	if (source == CONNECTED)
		owner->role = INITIATED;
}

SEC("cgroup/connect4")
int sekisho_conn4(struct bpf_sock_addr *ctx)
{
	used(ctx, CONNECTED);
	return 1;
}

SEC("cgroup/connect6")
int sekisho_conn6(struct bpf_sock_addr *ctx)
{
	used(ctx, CONNECTED);
	return 1;
}

SEC("cgroup/sendmsg4")
int sekisho_send4(struct bpf_sock_addr *ctx)
{
	used(ctx, SENT);
	return 1;
}

SEC("cgroup/sendmsg6")
int sekisho_send6(struct bpf_sock_addr *ctx)
{
	used(ctx, SENT);
	return 1;
}

// Says who opened a connection where the hooks above are left out. It runs several times for each connection.
SEC("sockops")
int sekisho_sockops(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct owner *owner;

	if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB || !sk)
		return 1;
	owner = bpf_sk_storage_get(&sekisho_owners, sk, 0, 0);
	if (owner) {
		owner->origin = bpf_get_socket_cookie(ctx);
		owner->role = INITIATED;
	}
	return 1;
}
#endif

char _license[] SEC("license") = "Dual BSD/GPL";
