/* A list of 100 nodes of 24 to 33 bytes, 2850 in all, of which nobody has the first. A list of 50 is kept. */
#include "common.h"

struct node {
    struct node *next;
    char text[];
};

static struct node *kept;

__attribute__((noinline)) static struct node *list(int length) {
    struct node *first = NULL;
    for (int i = 0; i < length; i++) {
        struct node *node = calloc(1, sizeof *node + 16 + i % 10);
        node->next = first;
        first = node;
    }
    return first;
}

__attribute__((noinline)) static void lose(void) {
    struct node *first = list(100);
    USE(first);
}

int main(void) {
    kept = list(50);
    lose();
    clear_stack();
    return kept == NULL;
}
