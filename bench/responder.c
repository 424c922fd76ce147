/* A Modbus TCP server that is not the bottleneck: one thread, epoll, FC03 and FC04, every unit.
 *
 *     responder HOSTS FLOATS INTS      prints its port, then serves until its parent ends or it is killed
 *
 * It listens on one port of HOSTS loopback addresses, 127.0.1.1 and so on: a device each, as the gateway refuses two
 * channels to one address. 127.0.0.1 is one more, for programs that connect all devices to the same.
 *
 * Registers 0 .. 2 * FLOATS - 1 hold big-endian float32, the next INTS hold int16: noisy signals that differ from
 * round to round. A connection moves on to the next of ROUNDS prepared images when it asks for register 0.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROUNDS = 64, REGISTERS = 4096, MBAP = 7, REQUEST = 12, LONGEST_REPLY = 260, INPUT = 4096, MOST_HOSTS = 4000 };

struct connection {
    int fd, image, held, listening;
    uint8_t input[INPUT];
};

static uint8_t images[ROUNDS][2 * REGISTERS];
static uint64_t seed = 7;

static double uniform(void)
{
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17; /* xorshift64 */
    return (double)(seed >> 11) / 9007199254740992.0;
}

static double noise(double deviation)
{
    double sum = 0;
    for (int i = 0; i < 12; i++)
        sum += uniform();
    return (sum - 6) * deviation;
}

static void put16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8), at[1] = (uint8_t)value;
}

static unsigned get16(const uint8_t *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

static void fill(int floats, int ints)
{
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < floats; i++) {
            float value = (float)(230 + 5 * sin(round / 9.0 + i) + noise(0.4));
            uint32_t word;
            memcpy(&word, &value, 4);
            put16(images[round] + 4 * i, word >> 16), put16(images[round] + 4 * i + 2, word & 0xFFFF);
        }
        for (int i = 0; i < ints; i++) {
            int value = (int)(1000 + 40 * sin(round / 7.0 + i) + noise(8));
            put16(images[round] + 4 * floats + 2 * i, (unsigned)value & 0xFFFF);
        }
    }
}

/* Write the reply to one request (function 1, address 2, count 2 behind the header); return its length. */
static int answer(struct connection *to, const uint8_t *request, uint8_t *reply)
{
    unsigned function = request[MBAP], address = get16(request + 8), count = get16(request + 10);
    memcpy(reply, request, MBAP);
    unsigned refusal = function != 3 && function != 4         ? 1
                       : count < 1 || count > 125             ? 3
                       : address + count > (unsigned)REGISTERS ? 2
                                                              : 0;
    if (refusal) { /* MODBUS Application Protocol V1.1b3, 7 */
        put16(reply + 4, 3);
        reply[7] = (uint8_t)(function | 0x80), reply[8] = (uint8_t)refusal;
        return 9;
    }
    if (address == 0)
        to->image = (to->image + 1) % ROUNDS;
    put16(reply + 4, 3 + 2 * count);
    reply[7] = (uint8_t)function, reply[8] = (uint8_t)(2 * count);
    memcpy(reply + 9, images[to->image] + 2 * address, 2 * count);
    return 9 + 2 * (int)count;
}

/* Answer every whole request that was received; return 0 when the connection is to be closed. */
static int serve(struct connection *from)
{
    uint8_t replies[INPUT / REQUEST * LONGEST_REPLY];
    int size = 0, at = 0;
    ssize_t got = read(from->fd, from->input + from->held, sizeof from->input - (size_t)from->held);
    if (got <= 0)
        return got < 0 && errno == EINTR;
    from->held += (int)got;
    while (from->held - at >= REQUEST) {
        if (get16(from->input + at + 4) != REQUEST - 6)
            return 0; /* not one of the two functions: a length that this server does not expect */
        size += answer(from, from->input + at, replies + size);
        at += REQUEST;
    }
    memmove(from->input, from->input + at, (size_t)(from->held - at));
    from->held -= at;
    return size == 0 || write(from->fd, replies, (size_t)size) == size;
}

static int listen_on(uint32_t host, uint16_t *port)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(*port), .sin_addr.s_addr = htonl(host)};
    socklen_t size = sizeof at;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096) || getsockname(fd, (struct sockaddr *)&at, &size)) {
        perror("listen");
        exit(1);
    }
    *port = ntohs(at.sin_port);
    return fd;
}

static void watch(int epoll, int fd, int listening)
{
    static int opened;
    struct connection *new = calloc(1, sizeof *new);
    new->fd = fd, new->listening = listening, new->image = opened++ % ROUNDS;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = new};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

int main(int count, char **words)
{
    int hosts = count == 4 ? atoi(words[1]) : -1, floats = count == 4 ? atoi(words[2]) : 0;
    int ints = count == 4 ? atoi(words[3]) : 0;
    if (hosts < 0 || hosts > MOST_HOSTS || floats < 0 || ints < 0 || 2 * floats + ints > REGISTERS) {
        fprintf(stderr, "usage: responder HOSTS FLOATS INTS\n");
        return 2;
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGPIPE, SIG_IGN);
    fill(floats, ints);

    int one = 1, epoll = epoll_create1(0);
    uint16_t port = 0;
    watch(epoll, listen_on(0x7F000001, &port), 1);
    for (int i = 0; i < hosts; i++)
        watch(epoll, listen_on(0x7F000100 + (uint32_t)(i / 250 * 256 + i % 250 + 1), &port), 1);
    printf("%u\n", port);
    fflush(stdout);

    struct epoll_event events[256];
    for (;;) {
        int ready = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *from = events[i].data.ptr;
            if (from->listening) {
                int fd = accept(from->fd, NULL, NULL);
                if (fd < 0)
                    continue;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                watch(epoll, fd, 0);
            } else if (!serve(from)) {
                close(from->fd);
                free(from);
            }
        }
    }
}
