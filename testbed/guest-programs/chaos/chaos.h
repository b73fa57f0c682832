/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * RDMA into memory that moves: two of these programs, in two guests, write, read, send to and
 * count in each other's buffers, while threads do to the buffers whatever a kernel can do to
 * memory. Every byte that arrives is known beforehand, and is checked.
 *
 *	main        from options to exit code         options    the command line
 *	connect*    the way to the peer, the verbs    memory     the buffer and its kinds
 *	cell, span  parts of it, and who may do what  plan       what a round does, known to both ends
 *	pattern     contents: fill and check          post       requests and completions
 *	traffic     the loop, and how it ends         requester  rounds that this end begins
 *	responder   its part in the other's rounds    mutate*    what is done to the memory
 *	hole        transfers that must fail          bystander  memory that nobody may write
 *	overcommit  one pass over a large buffer      report     what is printed
 */
#ifndef CHAOS_H
#define CHAOS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <infiniband/verbs.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE 4096u
#define MAX_QPS 32
#define MAX_PIECES 4
#define SQ_DEPTH 128
/* Rounds of one queue pair that are under way at a time. */
#define ACTIVE 4
/* Bytes before and after a transfer that must stay as they were. */
#define GUARD 64
/* Where data may begin in a cell: before it lie results of atomics and the guard. */
#define MARGIN 128

/* ---- options ---- */

enum die { DIE_NOT, DIE_KILL, DIE_EXIT };
enum corrupt { CORRUPT_NOT, CORRUPT_SOURCE, CORRUPT_COMPLETION, CORRUPT_BYSTANDER, CORRUPT_SNAPSHOT };

struct options {
	const char *device, *memory, *address;
	int gid_index, port, qps;
	bool listens;
	uint64_t buffer_mib, seconds, seed;
	uint32_t cases; /* bits by enum mutation */
	bool all;
	bool expect_death, on_demand, overcommit;
	enum die die;
	enum corrupt corrupt;
	uint64_t corrupt_after;
};
extern struct options options;

void options_parse(int argc, char **argv);

/* ---- memory ---- */

enum kind { KIND_ANON, KIND_THP, KIND_SHM, KIND_FILE, KIND_HUGE_2M, KIND_HUGE_1G, KIND_DAX };

struct memory {
	enum kind kind;
	uint8_t *at;
	uint64_t length;
	uint64_t page; /* of the mapping: 4 KiB, 2 MiB or 1 GiB */
	int fd;	       /* of what is mapped shared, or -1 */
};
extern struct memory memory;

void memory_make(void);
/* Whether pages that go come back with their contents, since a file holds them. */
bool memory_is_shared(void);
/* Maps part of the buffer anew, in place of what is there; private memory is zero then. */
int memory_map_again(uint8_t *at, uint64_t length, int protection);
/* Address space that is reserved for one thread's own use. */
uint8_t *memory_reserve(uint64_t length);

/* ---- cells: parts of the buffer with one use and one owner at a time ---- */

enum use { USE_SOURCE, USE_SINK, USE_IN, USE_RECV };

/* What the memory is in for. Who mutates holds a cell, so that it stays what it is meanwhile. */
enum state {
	OWNED,	   /* this end's processors read and write it */
	READ_ONLY, /* the device and the processors only read it */
	WRITABLE,  /* the device may write it, contents count */
	LAX,	   /* in a transfer, but bytes may turn zero */
	PARKED,	   /* in no transfer, contents do not matter */
	MUTATED,   /* as PARKED, after somebody did something to it */
	STATES,
	HELD = 16
};

struct cell {
	uint8_t *at;
	_Atomic int state;
	enum use use;
	int qp, lane;
};

struct layout {
	uint64_t stride;  /* bytes of a cell */
	uint32_t longest; /* bytes of a transfer, at most */
	int cells, lanes, recvs; /* of each queue pair */
};
extern struct layout layout;
extern struct cell *cells;
extern int cell_count;

/* Cuts the buffer up; both ends come to the same, given the larger of their page sizes. */
void cells_make(uint64_t granule);
struct cell *cell_of(int qp, enum use use, int lane);
uint64_t cell_offset(const struct cell *cell);
bool cell_try_own(struct cell *cell);
void cell_own(struct cell *cell);
void cell_set(struct cell *cell, enum state state);
enum state cell_state(struct cell *cell);
/* Takes a random cell in one of the states; NULL if none was found quickly. */
struct cell *cell_hold(uint64_t *random, uint32_t states);
void cell_release(struct cell *cell);

/* ---- patterns ---- */

enum phase { PHASE_DATA = 1, PHASE_REPLY, PHASE_GUARD, PHASE_STALE, PHASE_SEND, PHASE_BYSTANDER, PHASE_CHILD };

/* A stream of bytes that tells in every word where it belongs. */
struct pattern {
	uint64_t tag;
	uint32_t mask; /* of the number of a word */
};

/* Part of a cell, or of other memory, that holds a part of a stream. */
struct piece {
	uint8_t *at;
	uint32_t length;
};

struct span {
	int count;
	struct piece piece[MAX_PIECES];
};

enum strictness { STRICT, OR_ZERO };

uint64_t mix(uint64_t value);
uint64_t rng(uint64_t *state);
struct pattern pattern_of(enum phase phase, int end, int qp, int cell, uint64_t seq);
struct pattern pattern_uniform(uint64_t seq);
uint64_t pattern_word(struct pattern pattern, uint64_t offset);
void pattern_fill(uint8_t *at, struct pattern pattern, uint64_t from, uint64_t length);
/* Counts wrong bytes into the report. */
uint64_t pattern_check(const uint8_t *at, struct pattern pattern, uint64_t from, uint64_t length,
		       enum strictness strictness, const char *where);
/* Says what a word of a stream is, or that it is none. */
const char *pattern_name(uint64_t word);
void span_fill(const struct span *span, struct pattern pattern);
/* `hole` is the offset of a word that atomics have changed to `value`, or -1. */
uint64_t span_check(const struct span *span, struct pattern pattern, int64_t hole, uint64_t value,
		    enum strictness strictness, const char *where);

/* ---- plans ---- */

enum flavour {
	FLAVOUR_ECHO,	  /* WRITE, notify; the peer answers in place; READ; notify */
	FLAVOUR_ECHO_IMM, /* the same with data and notification in one */
	FLAVOUR_CHAIN,	  /* WRITE, atomics, READ, notify: all posted at once */
};

struct plan {
	enum flavour flavour;
	uint32_t length, offset; /* in the peer's cell */
	bool lax, uniform, inlined;
	bool guards, stale; /* what the peer puts there before */
	/* Atomics on a word of what was written; -1 for none. */
	int64_t word;
	uint64_t add, swap;
	bool match;	 /* whether the compare is right */
	uint64_t before, between, after; /* values of the word */
	struct pattern data, reply, guard;
};

struct send_plan {
	uint32_t length;
	bool lax, immediate;
	struct pattern data;
};

struct plan plan_round(int end, int qp, int lane, uint64_t seq);
struct send_plan plan_send(int end, int qp, uint64_t number);
/* Somewhere in a cell, in one or several pieces. */
struct span span_in(struct cell *cell, uint32_t length, uint64_t *random);
/* The first bytes of a span, and the bytes of it after some. */
struct span span_part(const struct span *span, uint32_t from, uint32_t length);
/* Fills, or checks, what lies just before and just after. */
void guards_fill(const struct span *span, struct pattern guard);
void guards_check(const struct span *span, struct pattern guard, enum strictness strictness, const char *where);

/* ---- connections ---- */

struct end {
	uint64_t page, races, rd_atomic, holes;
	uint64_t buffer, control; /* addresses */
	uint32_t rkey, control_rkey;
	uint32_t qpn[MAX_QPS];
	char gid[33];
};

/* A connection for lines of text. */
struct wire {
	int fd;
	char buffer[4096];
	size_t filled, taken;
};

/* Who listens accepts, who connects connects: once for each wire, in the same order. */
void wire_open(struct wire *wire);
void wire_say(struct wire *wire, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The next line from the peer; blocks. NULL when the peer is gone. */
const char *wire_hear(struct wire *wire);
/* The same, but returns "" while there is none. */
const char *wire_listen(struct wire *wire);

struct link {
	struct ibv_context *context;
	struct ibv_pd *pd;
	struct ibv_cq *cq;
	struct ibv_qp *qp[MAX_QPS];
	struct ibv_mr *mr, *control_mr;
	uint32_t inline_bytes;
	int sges;
	/* One word for each lane, written by the peer: how far a round may go. */
	_Atomic uint64_t *control;
	struct end peer;
	int me; /* 0 for the end that listens */
	struct wire wire;
};
extern struct link link_;

void connect_open(void);
/* Everything but the wire: exchanges what both must know, registers, makes queue pairs. */
void connect_verbs(void);
struct ibv_mr *connect_register(void *at, uint64_t length);
struct ibv_qp *connect_make_qp(struct ibv_cq *cq);
/* From RESET up to INIT, and from there to RTS, with the queue pair of that number. */
void connect_to_init(struct ibv_qp *qp);
void connect_to_rts(struct ibv_qp *qp, uint32_t peer);
void connect_to_reset(struct ibv_qp *qp);
void connect_error_state(int qp);

/* ---- traffic ---- */

/* What a notification says of a round, beside its lane and number. */
enum notice { NOTICE_CHECK_AND_REPLY = 1, NOTICE_DONE, NOTICE_CHECK };

enum op { OP_WRITE, OP_WRITE_IMM, OP_READ, OP_SEND, OP_FETCH_ADD, OP_CMP_SWAP, OP_ACK, OPS };

struct post {
	enum op op;
	int lane;
	const struct span *span; /* NULL: no data */
	uint64_t remote;
	uint32_t rkey, immediate;
	bool with_immediate, inlined, fence;
	uint64_t compare_add, swap;
};

struct counts {
	uint64_t ops[OPS], recv;
	uint64_t bytes_moved;
	_Atomic uint64_t bytes_checked, wrong_bytes;
	uint64_t expected, got, spurious, lost;
	uint64_t rounds, messages_sent, messages_taken;
	uint64_t errors[32], error_count;
};
extern struct counts counts;

/* Runs until the time is over; whether the peer died. */
bool traffic_run(void);
int traffic_poll(void);
int traffic_outstanding(void);
/* Empties the queues, and counts what never came. */
void traffic_flush(void);
void traffic_post(int qp, const struct post *post);
/* Whether a queue pair has failed, so that nothing more can be posted. */
bool traffic_dead(int qp);
/* Elements of a send queue that are free. */
int traffic_room(int qp);
void traffic_post_recv(int qp, int index, const struct span *span);
bool traffic_stopping(void);

/* One pass over a large buffer, instead of the traffic; whether it came to its end. */
bool overcommit_run(void);
void overcommit_completed(int slot, bool good);

void requester_make(void);
/* Does what can be done now; whether that was anything. */
bool requester_step(int qp);
void requester_completed(int qp, int lane, enum op op, bool good);
/* Rounds that are under way. */
int requester_active(int qp);
void requester_check_sources(void);

void responder_make(void);
bool responder_step(int qp);
void responder_received(int qp, int index, const struct ibv_wc *wc);

/* ---- mutations ---- */

enum mutation {
	M_DONTNEED, M_FREE, M_COLD, M_PAGEOUT, M_MREMAP, M_REMAP, M_MPROTECT, M_FORK, M_KSM, M_THP,
	M_MOVE_PAGES, M_COMPACT, M_HOLE, MUTATIONS
};

/* One way to mutate; `hole` alone is no step but a conversation. */
struct mutator {
	const char *name;
	bool (*suits)(void);
	int (*step)(uint64_t *random);
	unsigned pause_us;
	_Atomic uint64_t done, refused;
};
extern struct mutator mutators[MUTATIONS];
extern _Atomic bool running;

/* Removes what does not suit the memory; refuses what was asked for by name. */
void mutate_choose(void);
/* Whether contents of this end's cells may be discarded in the middle of a transfer. */
bool mutate_discards(void);
void mutate_start(void);
void mutate_stop(void);
/* Pages of a range of a cell, at random, in units of the mapping's pages. */
struct piece mutate_range(struct cell *cell, uint64_t *random, uint64_t most);
/* The same of the whole buffer. */
struct piece mutate_anywhere(uint64_t *random, uint64_t most);
int mutate_result(enum mutation mutation, int result);
/* Held while addresses of the buffer are not what they are otherwise. */
void mapping_lock(void);
void mapping_unlock(void);

int step_dontneed(uint64_t *random);
int step_free(uint64_t *random);
int step_remap(uint64_t *random);
int step_cold(uint64_t *random);
int step_pageout(uint64_t *random);
int step_compact(uint64_t *random);
int step_mremap(uint64_t *random);
int step_move_pages(uint64_t *random);
int step_mprotect(uint64_t *random);
int step_fork(uint64_t *random);
int step_ksm(uint64_t *random);
int step_thp(uint64_t *random);
bool two_nodes(void);

/* Readies the queue pair that runs into holes, if both ends want it. */
void hole_make(void);
void hole_start(void);
void hole_stop(void);

void bystander_start(void);
void bystander_stop(void);

/* ---- report ---- */

uint64_t now_ns(void);
void nap_us(unsigned us);
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void report_ready(void);
void report_progress(uint64_t bytes);
/* Remembers the first wrong byte. */
void report_wrong(const char *where, const uint8_t *at, uint64_t offset, uint64_t expected, uint64_t found);
/* Something other than a byte that was not as it must be. */
void report_fault(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Prints the result, and returns whether all was well. */
bool report_result(bool peer_died);

#endif
