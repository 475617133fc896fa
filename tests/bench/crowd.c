/* A crowd of players, cheap enough that the server is what is measured.
 *
 *     crowd PORT PID CLIENTS ROOM_SIZE INPUT_RATE INPUT_SIZE TICK_RATE WARM_UP SECONDS SEATS
 *
 * CLIENTS connect to 127.0.0.1:PORT one after the other, ROOM_SIZE of them to each path /crowd-N
 * (0: all to one). Each sends INPUT_RATE text messages of INPUT_SIZE bytes a second, not all at the
 * same moment, and reads the states that its room sends: text messages of any length that hold
 * `"tick":N` and `"heard":N`, the number of the state and of the inputs that the room has had.
 * With SEATS (1) each asks for a seat first, and answers pings. After WARM_UP seconds it measures
 * for SECONDS, then stops sending, and waits until the rooms have heard everything, for 5 s at the
 * most. It prints one JSON object:
 *
 *     connect      seconds until all had been let in
 *     states       that came while it measured; expected: TICK_RATE * SECONDS * CLIENTS
 *     gaps         states whose number does not follow the one before; broken: connections that ended
 *     p50 p99 max  seconds between two states of one client
 *     sent, heard  inputs in all, and how many of them the rooms say they have had
 *     server_cpu, generator  cores used by process PID, and by this one, while it measured
 *
 * One thread, epoll, no spinning: it sleeps until a socket is readable or an input is due.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER 65536        /* bytes of a state at the most, and of one recv */
#define CONNECT_PATIENCE 10 /* seconds for one opening handshake */

struct client {
    int fd;            /* -1: it has ended */
    unsigned room;
    unsigned have;     /* bytes of an unfinished frame in `rest` */
    char *rest;
    double last;       /* when the last state came; 0: none while measuring */
    long tick;         /* its number; -1: none yet */
};

static struct client *clients;
static long *heard; /* by room */
static double *gaps_between; /* seconds between two states, while measuring */
static size_t intervals, intervals_limit;
static long states, broken, skipped, sent;
static int measuring, with_seats;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double cpu_of(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t) != 0) return 0;
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void die(const char *what) {
    fprintf(stderr, "crowd: %s: %s\n", what, errno ? strerror(errno) : "no");
    exit(1);
}

/* Sends a frame of at most 125 bytes, masked (RFC 6455 section 5.3); one that does not fit is lost. */
static int send_frame(struct client *c, unsigned char head, const char *payload, size_t size) {
    unsigned char frame[6 + 125] = {head, 0x80 | size, 1, 2, 3, 4};
    for (size_t i = 0; i < size; i++) frame[6 + i] = payload[i] ^ frame[2 + i % 4];
    return send(c->fd, frame, 6 + size, MSG_NOSIGNAL) == (ssize_t)(6 + size);
}

/* Opens one WebSocket; bytes behind the response are kept as the first of a frame. */
static void join(struct client *c, int port, unsigned number) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int yes = 1;
    struct timeval patience = {.tv_sec = CONNECT_PATIENCE};
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) != 0) die("connect");
    char request[512];
    int size = snprintf(request, sizeof request,
                        "GET /crowd-%u?n=%u%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                        "Sec-WebSocket-Version: 13\r\n\r\n",
                        c->room, number, with_seats ? "&_seat" : "", port);
    if (send(c->fd, request, size, 0) != size) die("send");
    c->rest = malloc(BUFFER);
    char *end = NULL;
    while (end == NULL) {
        ssize_t got = recv(c->fd, c->rest + c->have, BUFFER - 1 - c->have, 0);
        if (got <= 0) die("no answer to the opening handshake");
        c->have += got;
        c->rest[c->have] = 0;
        end = strstr(c->rest, "\r\n\r\n");
    }
    errno = 0;
    if (strncmp(c->rest, "HTTP/1.1 101", 12) != 0) die("refused");
    end += 4;
    c->have -= end - c->rest;
    memmove(c->rest, end, c->have);
    if (with_seats) send_frame(c, 0x81, "{\"_seat\":{}}", 12);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->tick = -1;
}

static long field(const char *text, size_t size, const char *name) {
    const char *at = memmem(text, size, name, strlen(name));
    return at ? atol(at + strlen(name)) : -1;
}

static void take_state(struct client *c, const char *text, size_t size, double at) {
    long tick = field(text, size, "\"tick\":"), total = field(text, size, "\"heard\":");
    if (tick < 0) return; /* something else: a greeting */
    if (total > heard[c->room]) heard[c->room] = total;
    if (c->tick >= 0 && tick != c->tick + 1) skipped++;
    c->tick = tick;
    if (!measuring) return;
    states++;
    if (c->last > 0 && intervals < intervals_limit) gaps_between[intervals++] = at - c->last;
    c->last = at;
}

static void end(struct client *c) {
    close(c->fd);
    c->fd = -1;
    broken++;
}

/* Takes what one recv brings; server frames are not masked (RFC 6455 section 5.1). */
static void receive(struct client *c, double at) {
    ssize_t got = recv(c->fd, c->rest + c->have, BUFFER - c->have, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { end(c); return; }
    c->have += got;
    size_t start = 0;
    while (c->have - start >= 2) {
        const unsigned char *head = (unsigned char *)c->rest + start;
        size_t length = head[1] & 127, before = 2;
        if (length == 126) {
            if (c->have - start < 4) break;
            length = head[2] << 8 | head[3];
            before = 4;
        }
        if (length == 127 || before + length > BUFFER) { end(c); return; }
        if (c->have - start < before + length) break;
        int opcode = head[0] & 15;
        if (opcode == 8) { end(c); return; }
        if (opcode == 9) send_frame(c, 0x8a, c->rest + start + before, length);
        if (opcode == 1 || opcode == 2) take_state(c, c->rest + start + before, length, at);
        start += before + length;
    }
    c->have -= start;
    memmove(c->rest, c->rest + start, c->have);
}

static int by_size(const void *a, const void *b) {
    double x = *(double *)a, y = *(double *)b;
    return (x > y) - (x < y);
}

static double centile(double share) {
    return intervals ? gaps_between[(size_t)(share * (intervals - 1))] : 0;
}

int main(int count, char **words) {
    if (count != 11) { errno = EINVAL; die("ten arguments are wanted"); }
    with_seats = atoi(words[10]);
    int port = atoi(words[1]), pid = atoi(words[2]), input_size = atoi(words[6]);
    unsigned n = atoi(words[3]), room_size = atoi(words[4]);
    double input_rate = atof(words[5]), tick_rate = atof(words[7]);
    double warm_up = atof(words[8]), seconds = atof(words[9]);
    unsigned rooms = room_size ? (n + room_size - 1) / room_size : 1;
    clockid_t server = ~(clockid_t)pid << 3 | 2; /* clock_getcpuclockid(3) */
    clients = calloc(n, sizeof *clients);
    heard = calloc(rooms, sizeof *heard);
    intervals_limit = (size_t)(2 * tick_rate * seconds * n) + n;
    gaps_between = malloc(intervals_limit * sizeof *gaps_between);
    if (input_size > 125 || input_size < 1) { errno = EINVAL; die("inputs have 1 to 125 bytes"); }

    int poll = epoll_create1(0);
    double began = now();
    for (unsigned i = 0; i < n; i++) {
        clients[i].room = room_size ? i / room_size : 0;
        join(&clients[i], port, i);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        epoll_ctl(poll, EPOLL_CTL_ADD, clients[i].fd, &event);
    }
    double connected = now() - began;

    char input[125];
    for (int i = 0; i < input_size; i++) input[i] = "abcdefghijklmnopqrst"[i % 20];

    double start = now(), measure = start + warm_up, stop = measure + seconds, last = stop + 5;
    double server_cpu = 0, own_cpu = 0, ended = 0;
    double pause = input_rate > 0 ? 1 / (input_rate * n) : 1e9; /* between any two inputs */
    double due = start;
    unsigned next = 0;
    struct epoll_event events[1024];
    for (;;) {
        double t = now();
        if (!measuring && !ended && t >= measure) {
            measuring = 1;
            server_cpu = cpu_of(server);
            own_cpu = cpu_of(CLOCK_PROCESS_CPUTIME_ID);
            measure = t;
        }
        if (measuring && t >= stop) {
            measuring = 0;
            ended = t;
            server_cpu = cpu_of(server) - server_cpu;
            own_cpu = cpu_of(CLOCK_PROCESS_CPUTIME_ID) - own_cpu;
        }
        for (; !ended && due <= t; due += pause, next = (next + 1) % n) {
            struct client *c = &clients[next];
            if (c->fd >= 0 && send_frame(c, 0x81, input, input_size)) sent++;
        }
        if (ended) {
            long all = 0;
            for (unsigned i = 0; i < rooms; i++) all += heard[i];
            if (all >= sent || t >= last) break;
        }
        double until = ended ? t + 0.05 : measuring ? (due < stop ? due : stop) : (due < measure ? due : measure);
        /* Inputs that are due within a millisecond go together: that costs no wake-up of its own. */
        int wait = until > t ? (int)((until - t) * 1000) + 1 : 0;
        int ready = epoll_wait(poll, events, 1024, wait);
        t = now();
        for (int i = 0; i < ready; i++)
            if (clients[events[i].data.u32].fd >= 0) receive(&clients[events[i].data.u32], t);
    }

    long all = 0;
    for (unsigned i = 0; i < rooms; i++) all += heard[i];
    qsort(gaps_between, intervals, sizeof *gaps_between, by_size);
    double took = ended - measure;
    printf("{\"connect\": %.4f, \"states\": %ld, \"expected\": %.0f, \"gaps\": %ld, \"broken\": %ld, "
           "\"p50\": %.5f, \"p99\": %.5f, \"max\": %.5f, \"sent\": %ld, \"heard\": %ld, "
           "\"server_cpu\": %.4f, \"generator\": %.4f}\n",
           connected, states, tick_rate * took * n, skipped, broken, centile(.5), centile(.99),
           centile(1), sent, all, server_cpu / took, own_cpu / took);
    return 0;
}
