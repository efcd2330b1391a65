"""Small restoration painter: a diffusers pipeline of ours, made from nothing."""
