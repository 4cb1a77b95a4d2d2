// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Stamps the sockets that are older than the agent: walks every process's files once. The few kernel types are declared
// here and placed by the loader (CO-RE), so it needs the kernel's own BTF, but no header of it.
#include "sekisho.h"
#include <bpf/bpf_core_read.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct seq_file;
struct bpf_iter_meta { struct seq_file *seq; };
typedef struct { __u32 val; } kuid_t;
struct cred { kuid_t uid; };
struct task_struct { int tgid; __u64 start_boottime; char comm[16]; const struct cred *cred; };
struct file;
struct net { __u64 net_cookie; };
typedef struct { struct net *net; } possible_net_t;
struct sock_common { unsigned short skc_family; possible_net_t skc_net; };
struct sock { struct sock_common __sk_common; };
struct socket { struct sock *sk; };
struct bpf_iter__task_file { struct bpf_iter_meta *meta; struct task_struct *task; __u32 fd; struct file *file; };
#pragma clang attribute pop

struct sekisho_owners_map sekisho_owners SEC(".maps");

SEC("iter/task_file")
int sekisho_files(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	struct sock *sk;
	struct owner *owner;
	__u32 one = 1;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || (sk->__sk_common.skc_family != 2 && sk->__sk_common.skc_family != 10))
		return 0;
	owner = bpf_sk_storage_get(&sekisho_owners, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!owner || owner->source)
		return 0; /* what a hook has written is better */
	owner->tgid = task->tgid;
	owner->uid = task->cred->uid.val;
	owner->since_ns = task->start_boottime;
	owner->origin = bpf_get_socket_cookie(sk);
	owner->netns = sk->__sk_common.skc_net.net->net_cookie;
	__builtin_memcpy(owner->comm, task->comm, sizeof(owner->comm));
	owner->source = FOUND;
	bpf_seq_write(ctx->meta->seq, &one, sizeof(one));
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
