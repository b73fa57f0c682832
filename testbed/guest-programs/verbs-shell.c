// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * A verbs program that does what it is told, one line at a time, so that a
 * test decides when something happens.
 *
 *	verbs-shell DEVICE GID_INDEX SCRIPT
 *
 * Reads "NUMBER VERB ARGUMENT..." lines from the file SCRIPT, to which others
 * add lines, and answers each with "NUMBER ok KEY=VALUE..." or "NUMBER error
 * TEXT" on standard output. Memory is named by a slot.
 */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <linux/mempolicy.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 8
#define WORDS 8
#define DEPTH 64
/* Writes of a stream that are under way at a time. */
#define IN_FLIGHT 8
#define ACCESS                                                                                     \
	(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ)

static struct ibv_context *context;
static struct ibv_pd *pd;
static struct ibv_cq *cq;
static struct ibv_qp *qp;
static struct slot {
	unsigned char *at;
	uint64_t length;
	struct ibv_mr *mr;
} slots[SLOTS];
static int gid_index;

static struct stream {
	int active;
	struct slot *slot;
	uint32_t length, rkey;
	uint64_t remote;
	int in_flight;
	uint64_t done;
	int status; /* of the first that failed */
} stream;

static long number_of_line;

static void answer(const char *word, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	printf("%ld %s ", number_of_line, word);
	vprintf(format, list);
	putchar('\n');
	va_end(list);
}

static void failed(const char *what)
{
	answer("error", "%s: %s", what, strerror(errno));
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
}

static struct ibv_context *open_named(const char *name)
{
	struct ibv_device **list = ibv_get_device_list(NULL);

	for (int i = 0; list && list[i]; i++)
		if (!strcmp(ibv_get_device_name(list[i]), name))
			return ibv_open_device(list[i]);
	errno = ENODEV;
	return NULL;
}

static struct ibv_qp *make_qp(struct ibv_pd *domain, struct ibv_cq *queue)
{
	struct ibv_qp_init_attr attr = {
		.send_cq = queue,
		.recv_cq = queue,
		.cap = { .max_send_wr = DEPTH, .max_recv_wr = DEPTH, .max_send_sge = 1, .max_recv_sge = 1 },
		.qp_type = IBV_QPT_RC,
	};

	return ibv_create_qp(domain, &attr);
}

/* qp: makes the queue pair, in place of the one that was there. */
static void do_qp(void)
{
	union ibv_gid gid;
	struct ibv_wc wc;

	memset(&stream, 0, sizeof(stream));
	if (qp && (errno = ibv_destroy_qp(qp)))
		return failed("ibv_destroy_qp");
	while (ibv_poll_cq(cq, 1, &wc) > 0)
		;
	qp = make_qp(pd, cq);
	if (!qp)
		return failed("ibv_create_qp");
	if (ibv_query_gid(context, 1, gid_index, &gid))
		return failed("ibv_query_gid");
	printf("%ld ok qpn=%u gid=", number_of_line, qp->qp_num);
	for (int i = 0; i < 16; i++)
		printf("%02x", gid.raw[i]);
	putchar('\n');
}

/* connect QPN GID TIMEOUT RETRIES */
static void do_connect(char **word)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.port_num = 1,
		.qp_access_flags = ACCESS,
	};

	errno = ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
	if (errno)
		return failed("to INIT");
	memset(&attr, 0, sizeof(attr));
	attr.qp_state = IBV_QPS_RTR;
	attr.path_mtu = IBV_MTU_1024;
	attr.dest_qp_num = strtoul(word[0], NULL, 10);
	attr.max_dest_rd_atomic = 1;
	attr.min_rnr_timer = 12;
	attr.ah_attr.is_global = 1;
	attr.ah_attr.port_num = 1;
	attr.ah_attr.grh.sgid_index = gid_index;
	attr.ah_attr.grh.hop_limit = 64;
	for (int i = 0; i < 16; i++)
		sscanf(word[1] + 2 * i, "%2hhx", &attr.ah_attr.grh.dgid.raw[i]);
	errno = ibv_modify_qp(qp, &attr,
			      IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
				      IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
				      IBV_QP_MIN_RNR_TIMER);
	if (errno)
		return failed("to RTR");
	memset(&attr, 0, sizeof(attr));
	attr.qp_state = IBV_QPS_RTS;
	attr.timeout = atoi(word[2]);
	attr.retry_cnt = atoi(word[3]);
	attr.rnr_retry = 7;
	attr.max_rd_atomic = 1;
	errno = ibv_modify_qp(qp, &attr,
			      IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
				      IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
	if (errno)
		return failed("to RTS");
	answer("ok", "");
}

/* memory SLOT BYTES: address space that the processor has not touched. */
static void do_memory(struct slot *slot, char **word)
{
	slot->length = strtoull(word[0], NULL, 10);
	slot->at = mmap(NULL, slot->length, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (slot->at == MAP_FAILED)
		return failed("mmap");
	answer("ok", "addr=%llu", (unsigned long long)(uintptr_t)slot->at);
}

/* heap SLOT BYTES: the same from malloc, which gets a new mapping for so much. */
static void do_heap(struct slot *slot, char **word)
{
	slot->length = strtoull(word[0], NULL, 10);
	slot->at = malloc(slot->length);
	if (!slot->at)
		return failed("malloc");
	answer("ok", "addr=%llu", (unsigned long long)(uintptr_t)slot->at);
}

/* register SLOT TIMES: the last registration stays; tells how long the quickest took. */
static void do_register(struct slot *slot, char **word)
{
	uint64_t best = UINT64_MAX;

	for (int i = atoi(word[0]); i; i--) {
		uint64_t start, took;

		if (slot->mr && (errno = ibv_dereg_mr(slot->mr)))
			return failed("ibv_dereg_mr");
		start = now();
		slot->mr = ibv_reg_mr(pd, slot->at, slot->length, ACCESS);
		took = now() - start;
		if (!slot->mr)
			return failed("ibv_reg_mr");
		best = took < best ? took : best;
	}
	answer("ok", "rkey=%u ns=%llu", slot->mr->rkey, (unsigned long long)best);
}

/* prefer SLOT NODE: its pages are to lie on a NUMA node, as long as there is room. */
static void do_prefer(struct slot *slot, char **word)
{
	unsigned long nodes = 1ul << atoi(word[0]);

	if (syscall(SYS_mbind, slot->at, slot->length, MPOL_PREFERRED, &nodes, 8 * sizeof(nodes), 0))
		return failed("mbind");
	answer("ok", "preferred=1");
}

/* resident SLOT OFFSET BYTES: how many pages of it the process has. */
static void do_resident(struct slot *slot, char **word)
{
	uint64_t page = sysconf(_SC_PAGESIZE);
	uintptr_t from = (uintptr_t)slot->at + strtoull(word[0], NULL, 10);
	uintptr_t to = from + strtoull(word[1], NULL, 10);
	uint64_t count, here = 0;
	int file = open("/proc/self/pagemap", O_RDONLY);

	if (file < 0)
		return failed("/proc/self/pagemap");
	from /= page;
	to = (to + page - 1) / page;
	for (count = from; count < to; count++) {
		uint64_t entry;

		if (pread(file, &entry, sizeof(entry), count * sizeof(entry)) != sizeof(entry)) {
			close(file);
			return failed("/proc/self/pagemap");
		}
		here += entry >> 63;
	}
	close(file);
	answer("ok", "pages=%llu", (unsigned long long)here);
}

/* The byte that belongs at an offset of what was filled with a seed. */
static unsigned char pattern(uint64_t offset, unsigned seed)
{
	return (offset * 131 + (offset >> 12) * 7 + seed) % 251;
}

/* fill SLOT OFFSET BYTES SEED */
static void do_fill(struct slot *slot, char **word)
{
	uint64_t offset = strtoull(word[0], NULL, 10), length = strtoull(word[1], NULL, 10);

	for (uint64_t i = 0; i < length; i++)
		slot->at[offset + i] = pattern(i, atoi(word[2]));
	answer("ok", "");
}

/* check SLOT OFFSET BYTES SEED: how many bytes are other than those of such a fill. */
static void do_check(struct slot *slot, char **word)
{
	uint64_t offset = strtoull(word[0], NULL, 10), length = strtoull(word[1], NULL, 10);
	uint64_t wrong = 0;

	for (uint64_t i = 0; i < length; i++)
		wrong += slot->at[offset + i] != pattern(i, atoi(word[2]));
	answer("ok", "wrong=%llu", (unsigned long long)wrong);
}

static int post(enum ibv_wr_opcode opcode, struct slot *slot, uint64_t offset, uint32_t length,
		uint64_t remote, uint32_t rkey)
{
	struct ibv_sge sge = {
		.addr = (uintptr_t)slot->at + offset,
		.length = length,
		.lkey = slot->mr->lkey,
	};
	struct ibv_send_wr *bad, wr = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = opcode,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.rdma = { .remote_addr = remote, .rkey = rkey },
	};

	return ibv_post_send(qp, &wr, &bad);
}

/* recv SLOT OFFSET BYTES */
static void do_recv(struct slot *slot, char **word)
{
	struct ibv_sge sge = {
		.addr = (uintptr_t)slot->at + strtoull(word[0], NULL, 10),
		.length = strtoul(word[1], NULL, 10),
		.lkey = slot->mr->lkey,
	};
	struct ibv_recv_wr *bad, wr = { .sg_list = &sge, .num_sge = 1 };

	errno = ibv_post_recv(qp, &wr, &bad);
	if (errno)
		return failed("ibv_post_recv");
	answer("ok", "");
}

/* send SLOT OFFSET BYTES, write and read likewise with ADDRESS RKEY */
static void do_post(enum ibv_wr_opcode opcode, struct slot *slot, char **word)
{
	uint64_t remote = word[2] ? strtoull(word[2], NULL, 10) : 0;
	uint32_t rkey = word[2] && word[3] ? strtoul(word[3], NULL, 10) : 0;

	errno = post(opcode, slot, strtoull(word[0], NULL, 10), strtoul(word[1], NULL, 10), remote,
		     rkey);
	if (errno)
		return failed("ibv_post_send");
	answer("ok", "");
}

/* completion MILLISECONDS: the status of the next. */
static void do_completion(char **word)
{
	uint64_t until = now() + strtoull(word[0], NULL, 10) * 1000000;
	struct ibv_wc wc;

	while (now() < until) {
		int count = ibv_poll_cq(cq, 1, &wc);

		if (count < 0)
			return failed("ibv_poll_cq");
		if (count)
			return answer("ok", "status=%d bytes=%u", wc.status, wc.byte_len);
		nap();
	}
	answer("error", "no completion in time");
}

/* stream SLOT BYTES ADDRESS RKEY: writes until something fails. */
static void do_stream(struct slot *slot, char **word)
{
	stream = (struct stream){
		.active = 1,
		.slot = slot,
		.length = strtoul(word[0], NULL, 10),
		.remote = strtoull(word[1], NULL, 10),
		.rkey = strtoul(word[2], NULL, 10),
	};
	answer("ok", "");
}

static void stream_on(void)
{
	struct ibv_wc wc[IN_FLIGHT];
	int count;

	while (stream.in_flight < IN_FLIGHT) {
		if (post(IBV_WR_RDMA_WRITE, stream.slot, 0, stream.length, stream.remote, stream.rkey))
			break;
		stream.in_flight++;
	}
	count = ibv_poll_cq(cq, IN_FLIGHT, wc);
	for (int i = 0; i < count; i++) {
		stream.in_flight--;
		if (wc[i].status && !stream.status)
			stream.status = wc[i].status;
		stream.done += !wc[i].status;
	}
	if (stream.status || count < 0)
		stream.active = 0;
}

/* hold COUNT: objects that nobody destroys. */
static void do_hold(char **word)
{
	for (int i = atoi(word[0]); i; i--) {
		struct ibv_pd *domain = ibv_alloc_pd(context);
		struct ibv_cq *queue = ibv_create_cq(context, 16, NULL, NULL, 0);

		if (!domain || !queue || !make_qp(domain, queue))
			return failed("a PD, CQ or QP");
		if (!ibv_reg_mr(domain, malloc(1 << 16), 1 << 16, ACCESS))
			return failed("ibv_reg_mr");
	}
	answer("ok", "");
}

/* events: the asynchronous events that have come since the last time. */
static void do_events(void)
{
	struct pollfd fd = { .fd = context->async_fd, .events = POLLIN };
	struct ibv_async_event event;

	printf("%ld ok events=", number_of_line);
	while (poll(&fd, 1, 0) == 1 && !ibv_get_async_event(context, &event)) {
		printf("%d,", event.event_type);
		ibv_ack_async_event(&event);
	}
	putchar('\n');
}

/* child: a process that inherits everything, and does nothing. */
static void do_child(void)
{
	int apart[2];
	char nothing;
	pid_t pid;

	if (pipe(apart))
		return failed("pipe");
	pid = fork();
	while (!pid) {
		/* Whoever signals the parent, or waits for the end of its output, means that alone. */
		setsid();
		close(STDIN_FILENO);
		close(STDOUT_FILENO);
		close(STDERR_FILENO);
		close(apart[0]);
		close(apart[1]);
		pause();
	}
	close(apart[1]);
	/* Until the child has closed the other end, what is meant for the parent hits both. */
	while (pid > 0 && read(apart[0], &nothing, 1) > 0)
		;
	close(apart[0]);
	if (pid < 0)
		return failed("fork");
	answer("ok", "pid=%d", pid);
}

/* exec KEEP: becomes another program, which keeps the open files of the device (1) or not (0). */
static void do_exec(char **word)
{
	for (int fd = 3; atoi(word[0]) && fd < 256; fd++)
		fcntl(fd, F_SETFD, 0);
	answer("ok", "");
	fflush(stdout);
	execl("/bin/sleep", "sleep", "100000", NULL);
	failed("exec");
}

/* close: destroys everything in order, and ends. */
static void do_close(void)
{
	if (qp && (errno = ibv_destroy_qp(qp)))
		return failed("ibv_destroy_qp");
	if ((errno = ibv_destroy_cq(cq)))
		return failed("ibv_destroy_cq");
	for (int i = 0; i < SLOTS; i++)
		if (slots[i].mr && (errno = ibv_dereg_mr(slots[i].mr)))
			return failed("ibv_dereg_mr");
	if ((errno = ibv_dealloc_pd(pd)))
		return failed("ibv_dealloc_pd");
	if ((errno = ibv_close_device(context)))
		return failed("ibv_close_device");
	answer("ok", "");
	exit(0);
}

static void command(char *verb, char **word)
{
	struct slot *slot = word[0] ? &slots[strtoul(word[0], NULL, 10) % SLOTS] : slots;
	char **rest = word + 1;

	if (!strcmp(verb, "qp"))
		do_qp();
	else if (!strcmp(verb, "connect"))
		do_connect(word);
	else if (!strcmp(verb, "memory"))
		do_memory(slot, rest);
	else if (!strcmp(verb, "heap"))
		do_heap(slot, rest);
	else if (!strcmp(verb, "prefer"))
		do_prefer(slot, rest);
	else if (!strcmp(verb, "register"))
		do_register(slot, rest);
	else if (!strcmp(verb, "resident"))
		do_resident(slot, rest);
	else if (!strcmp(verb, "fill"))
		do_fill(slot, rest);
	else if (!strcmp(verb, "check"))
		do_check(slot, rest);
	else if (!strcmp(verb, "recv"))
		do_recv(slot, rest);
	else if (!strcmp(verb, "send"))
		do_post(IBV_WR_SEND, slot, rest);
	else if (!strcmp(verb, "write"))
		do_post(IBV_WR_RDMA_WRITE, slot, rest);
	else if (!strcmp(verb, "read"))
		do_post(IBV_WR_RDMA_READ, slot, rest);
	else if (!strcmp(verb, "completion"))
		do_completion(word);
	else if (!strcmp(verb, "stream"))
		do_stream(slot, rest);
	else if (!strcmp(verb, "progress"))
		answer("ok", "done=%llu status=%d active=%d", (unsigned long long)stream.done,
		       stream.status, stream.active);
	else if (!strcmp(verb, "hold"))
		do_hold(word);
	else if (!strcmp(verb, "events"))
		do_events();
	else if (!strcmp(verb, "child"))
		do_child();
	else if (!strcmp(verb, "exec"))
		do_exec(word);
	else if (!strcmp(verb, "close"))
		do_close();
	else if (!strcmp(verb, "exit"))
		exit(0);
	else
		answer("error", "no such command");
}

/* Takes the next whole line of the script, if there is one. */
static void take_line(FILE *script)
{
	char line[512], *word[WORDS + 1] = { 0 };
	long before = ftell(script);
	int count = 0;

	clearerr(script);
	if (!fgets(line, sizeof(line), script) || !strchr(line, '\n')) {
		fseek(script, before, SEEK_SET);
		return;
	}
	for (char *next = strtok(line, " \n"); next && count < WORDS; next = strtok(NULL, " \n"))
		word[count++] = next;
	if (count < 2)
		return;
	number_of_line = atol(word[0]);
	command(word[1], word + 2);
}

int main(int argc, char **argv)
{
	uint64_t next = 0;
	FILE *script;

	if (argc != 4)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	gid_index = atoi(argv[2]);
	context = open_named(argv[1]);
	pd = context ? ibv_alloc_pd(context) : NULL;
	cq = pd ? ibv_create_cq(context, 4 * DEPTH, NULL, NULL, 0) : NULL;
	script = fopen(argv[3], "r");
	if (!cq || !script) {
		perror(argv[1]);
		return 1;
	}
	answer("ok", "");
	for (;;) {
		if (stream.active)
			stream_on();
		else
			nap();
		if (now() >= next) {
			take_line(script);
			next = now() + 2000000;
		}
	}
}
