#include <cstdio>

#include <moegrad/moegrad.h>

int main() { std::puts("moegrad is installed"); }
