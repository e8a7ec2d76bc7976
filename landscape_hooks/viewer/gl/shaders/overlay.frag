in vec2 v_uv;
in vec4 v_tone;
uniform sampler2D glyphs;
out vec4 color;

void main() {
    vec4 mixed = v_tone * texture(glyphs, v_uv);
    color = vec4(mixed.rgb * mixed.a, mixed.a);
}
