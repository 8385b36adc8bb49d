/* Leaks nothing: a tree in a static, a block that only a running thread's stack has, one of a thread-local. */
#include "common.h"
#include <pthread.h>

struct node {
    struct node *left, *right;
    char text[40];
};

static struct node *root;
static _Thread_local char *mine;
static pthread_barrier_t ready, never;

__attribute__((noinline)) static struct node *tree(int depth) {
    struct node *node = calloc(1, sizeof *node);
    if (depth > 0) {
        node->left = tree(depth - 1);
        node->right = tree(depth - 1);
    }
    return node;
}

static void *keep(void *nothing) {
    char *volatile on_stack = malloc(100);
    mine = malloc(200);
    USE(&mine);
    pthread_barrier_wait(&ready);
    /* Until the program exits. */
    pthread_barrier_wait(&never);
    free(on_stack);
    return nothing;
}

int main(void) {
    root = tree(6);
    pthread_barrier_init(&ready, NULL, 2);
    pthread_barrier_init(&never, NULL, 2);
    pthread_t thread;
    pthread_create(&thread, NULL, keep, NULL);
    pthread_barrier_wait(&ready);
    clear_stack();
    return root == NULL;
}
