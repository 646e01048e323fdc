/* A program for guests: "listen PORT" echoes what comes until the other end has finished, and goes on
   with the next; "connect PORT TEXT" says TEXT to its host and prints the answer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct address { unsigned short family, reserved; unsigned port, cid; unsigned char zero[4]; };

static int fail(const char *what) { perror(what); return 1; }

int main(int count, char **words) {
    static char data[1 << 16];
    int one = socket(40, SOCK_STREAM, 0);
    if (one < 0 || count < 3) return fail("socket");
    struct address where = {.family = 40, .port = atoi(words[2])};
    if (!strcmp(words[1], "connect")) {
        where.cid = 2;
        if (connect(one, (struct sockaddr *)&where, sizeof where)) return fail("connect");
        if (write(one, words[3], strlen(words[3])) < 0) return fail("write");
        shutdown(one, SHUT_WR);
        for (ssize_t n; (n = read(one, data, sizeof data)) != 0;) {
            if (n < 0) return fail("read");
            fwrite(data, 1, n, stdout);
        }
        return 0;
    }
    where.cid = -1;
    if (bind(one, (struct sockaddr *)&where, sizeof where) || listen(one, 8)) return fail("listen");
    puts("listening"); fflush(stdout);
    for (;;) {
        int peer = accept(one, 0, 0);
        if (peer < 0) return fail("accept");
        for (ssize_t n; (n = read(peer, data, sizeof data)) > 0;)
            for (ssize_t done = 0, m; done < n; done += m)
                if ((m = write(peer, data + done, n - done)) < 0) { perror("write"); n = done = 0; break; }
        close(peer);
    }
}
