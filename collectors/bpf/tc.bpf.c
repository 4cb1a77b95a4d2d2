// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The same counting on interfaces that lead to a virtual machine or pod: what comes in from there is sent by it ("out"),
// what leaves to there is received. Every program returns "next" whatever happens: traffic is never stopped or delayed,
// and other tools' programs on the same hook run as ever.
#define SEKISHO_TC
#include "flow.bpf.c"

#define NEXT -1 /* TCX_NEXT, TC_ACT_UNSPEC */
#define TAG 0x8100
#define SERVICE_TAG 0x88a8
#define ETHERNET 14

// Set before loading: also count what sockets of this kernel send.
volatile const __u32 count_own = 0;

// Whether a socket of this kernel sent it, in whichever network namespace: the question that the kernel itself asks
// before it runs the programs of a control group (__cgroup_bpf_run_filter_skb). A tap's and a packet socket's do not count.
static __always_inline bool is_own(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (count_own || !sk)
		return false;
	sk = bpf_sk_fullsock(sk);
	return sk && (sk->family == 2 || sk->family == 10);
}

// The type of what the frame carries behind VLAN tags, and where it begins.
static __always_inline __be16 carried(struct __sk_buff *skb, __u32 *head)
{
	__be16 type = skb->protocol, tag[2];

#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (type != bpf_htons(TAG) && type != bpf_htons(SERVICE_TAG))
			break;
		if (bpf_skb_load_bytes(skb, *head, tag, sizeof(tag)))
			return 0;
		type = tag[1];
		*head += 4;
	}
	return type;
}

static __always_inline int seen(struct __sk_buff *skb, bool out, __u32 head)
{
	__be16 type = carried(skb, &head);

	if ((type == bpf_htons(ETH_IPV4) || type == bpf_htons(ETH_IPV6)) && !is_own(skb))
		count(skb, out, head, type);
	return NEXT;
}

SEC("tc")
int sekisho_tc_out(struct __sk_buff *skb)
{
	return seen(skb, true, ETHERNET);
}

SEC("tc")
int sekisho_tc_in(struct __sk_buff *skb)
{
	return seen(skb, false, ETHERNET);
}

// Interfaces without a link layer of their own (tun).
SEC("tc")
int sekisho_l3_out(struct __sk_buff *skb)
{
	return seen(skb, true, 0);
}

SEC("tc")
int sekisho_l3_in(struct __sk_buff *skb)
{
	return seen(skb, false, 0);
}
